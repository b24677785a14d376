"""The database: states of series, claims, outbox, ledger. All SQL of the project is in this folder.

schema      the tables and their constraints
database    opening, transactions, migrations
ledger      what was received; group commit
claims      revisions of series: complete, claim, heartbeat
studies     the series of one study beside each other
publication the end of a revision becomes public
outbox      result objects on their way to destinations
commitments whether destinations keep what they were sent
requested   what the modality worklist says of their orders
worklist    the studies in reading order
opinions    what readers do with a study and say of its result
trials      what people try on the page for it
access      sessions of people, one-time links, who looked at what
refusals    who was refused lately
system      what the administrator's page shows
receipts    the ledger as people read it
retention   what may be removed from the disk
board       what `status`, the page and `check` show; roles and leases
"""
