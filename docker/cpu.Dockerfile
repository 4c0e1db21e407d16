# The local engine and the chat page on a CPU: one image, two commands (see compose.yaml).
#
#   docker build -f docker/cpu.Dockerfile -t hidden-decoding:cpu .
#   docker run --rm -p 127.0.0.1:8080:8080 -v "$PWD/my-model:/model:ro" hidden-decoding:cpu
FROM docker.io/library/debian:bookworm-slim AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/hidden-decoding
ENV PATH=/opt/hidden-decoding/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
# PyTorch first: it is the largest layer and changes the least. Its CPU wheels are on an index of their own.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} --constraint constraints.txt torch
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
RUN pip install --constraint constraints.txt '.[serve]' \
 && pip list --format freeze > /tmp/packages && ! grep --ignore-case '^nvidia' /tmp/packages \
 && pip uninstall --yes pip setuptools \
 && find /opt/hidden-decoding -name __pycache__ -prune -exec rm -rf {} +

FROM docker.io/library/debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home --home-dir /home/hidden hidden
COPY --from=build /opt/hidden-decoding /opt/hidden-decoding
# Idle threads that spin slow a shared machine down. Hub downloads, if any, go to the home directory.
ENV PATH=/opt/hidden-decoding/bin:$PATH \
    OMP_WAIT_POLICY=PASSIVE \
    HF_HUB_DISABLE_TELEMETRY=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /home/hidden
EXPOSE 8080 8081
# SIGTERM lets running answers end (--drain-seconds, 30 by default): give the container longer than that to stop.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
  CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
ENTRYPOINT ["hidden-decoding"]
CMD ["serve", "/model", "--engine", "local", "--host", "0.0.0.0", "--port", "8080", "--served-model-name", "default"]
