# One image, four roles: serve runs all of them, or one per container: listen, work, deliver, web.
FROM python:3.11-slim-bookworm

# A CPU build of torch needs pip's CPU index: --build-arg PIP_OPTIONS="--extra-index-url ..." (PyTorch's install page).
ARG PIP_OPTIONS=""

RUN useradd --system --uid 10001 --home-dir /var/lib/triage-node --create-home triage

WORKDIR /opt/triage-node
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY triage_node ./triage_node
COPY models ./models
# hadolint ignore=SC2086
RUN pip install --no-cache-dir $PIP_OPTIONS -c constraints.txt .

USER 10001
WORKDIR /var/lib/triage-node
VOLUME /var/lib/triage-node
EXPOSE 11112 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["triage-node"]
CMD ["serve", "--config", "/etc/triage-node/triage-node.toml"]
