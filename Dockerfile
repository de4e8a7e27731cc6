# `supportset serve --videos` on a CPU: the page of a folder of videos. docs/own-videos.md says how to use it.
FROM python:3.11-slim

# Further options of pip, such as the index of PyTorch builds for CPUs, which are a tenth of the size of those for GPUs
ARG PIP_OPTIONS=""

WORKDIR /src
COPY pyproject.toml MANIFEST.in README.md CHANGELOG.md LICENSE constraints.txt requirements-weights.txt ./
COPY supportset supportset
COPY configs configs
COPY store store
COPY evaluate evaluate
COPY extract extract
COPY train train
COPY search search
COPY commands commands
RUN pip install --no-cache-dir -c constraints.txt ${PIP_OPTIONS} '.[serve]' && rm -rf /src/build

# The videos are only read; features, weights and converted videos are written
RUN useradd --uid 1000 --create-home supportset && install -d -o supportset -g supportset /videos /store /cache
USER supportset
WORKDIR /home/supportset
ENV SUPPORTSET_CACHE=/cache HF_HOME=/cache/huggingface
VOLUME ["/videos", "/store", "/cache"]
EXPOSE 8000

# Other machines than the container reach it, so it demands the token of SUPPORTSET_TOKEN, or prints a random one
CMD ["supportset", "serve", "--videos", "/videos", "--store", "/store", "--host", "0.0.0.0", "--port", "8000"]
HEALTHCHECK --interval=30s --start-period=120s CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 8000), 5).close()"]
