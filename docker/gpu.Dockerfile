# vLLM with our plugin, on the official vLLM image: one or more NVIDIA GPUs.
#
#   docker build -f docker/gpu.Dockerfile -t hidden-decoding:gpu .
#   docker run --rm --gpus all --ipc=host -p 127.0.0.1:8080:8080 -v "$PWD/my-model:/model:ro" hidden-decoding:gpu
#
# Nobody has run this image on a GPU yet; see docs/guides/containers.md for what has been checked.
FROM docker.io/library/debian:bookworm-slim AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM docker.io/vllm/vllm-openai:v0.32.0
COPY --from=build /wheels /wheels
# Ours alone: vLLM's image decides its PyTorch, Transformers and CUDA. `doctor` fails the build when they do not fit.
RUN python3 -m pip install --no-cache-dir --no-deps --no-index /wheels/*.whl \
 && rm -rf /wheels \
 && hidden-decoding doctor \
 && useradd --uid 10001 --create-home --home-dir /home/hidden hidden
# Compiled kernels and hub downloads go to the home directory; mount a volume there to keep them.
ENV HOME=/home/hidden \
    HF_HUB_DISABLE_TELEMETRY=1 \
    VLLM_NO_USAGE_STATS=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /home/hidden
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=900s --retries=3 \
  CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
ENTRYPOINT ["hidden-decoding"]
CMD ["serve", "/model", "--engine", "vllm", "--host", "0.0.0.0", "--port", "8080", "--served-model-name", "default"]
