# The gateway, the embedded store and the rollout engine. `--build-arg EXTRAS=learner` adds training.
FROM python:3.11-slim-bookworm AS build
ARG EXTRAS=""
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY gateway gateway
COPY judges judges
COPY learner learner
COPY demo demo
COPY config config
RUN python -m venv /opt/tracetune \
    && /opt/tracetune/bin/pip install --no-cache-dir \
       -c "constraints/${EXTRAS:-core}.txt" ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.11-slim-bookworm
# What `tracetune up` writes belongs on a volume; captured traces wait in shared memory (--shm-size 512m).
RUN useradd --create-home --uid 10001 tracetune && install -d -o tracetune /data
COPY --from=build /opt/tracetune /opt/tracetune
ENV PATH=/opt/tracetune/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["tracetune"]
CMD ["up", "--config", "/data/tracetune.yaml"]
