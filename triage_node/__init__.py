"""triage-node: a DICOM-native PACS listener and auto-triage node for head CT."""
