# Two stages: the wheel and its pinned, hashed dependencies are installed into a virtual environment, and only
# that is copied into the slim runtime image.
FROM python:3.13-slim AS build
WORKDIR /src
COPY requirements.txt pyproject.toml README.md LICENSE ./
COPY src ./src
COPY config ./config
COPY devices ./devices
RUN python -m venv /opt/greenlang-iot \
 && /opt/greenlang-iot/bin/pip install --no-cache-dir --require-hashes -r requirements.txt \
 && /opt/greenlang-iot/bin/pip install --no-cache-dir --no-build-isolation --no-deps .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/greenlang-iot --create-home greenlang
COPY --from=build /opt/greenlang-iot /opt/greenlang-iot
COPY config /etc/greenlang-iot/config
COPY devices /etc/greenlang-iot/devices
ENV PATH=/opt/greenlang-iot/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GREENLANG_IOT__DATA_DIR=/var/lib/greenlang-iot \
    GREENLANG_IOT__ADMIN__HOST=0.0.0.0 \
    XDG_CACHE_HOME=/var/lib/greenlang-iot/cache
USER greenlang
# Relative paths of the settings, such as config/tls/ca.crt, and the commands' own defaults begin here.
WORKDIR /etc/greenlang-iot
VOLUME /var/lib/greenlang-iot
EXPOSE 8090
# Alive, not ready: with a sink away a restart would mend nothing. Whatever the port, and with TLS: over loopback
# it need not be proved who answers.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
  CMD ["python", "-c", "import os, ssl, urllib.request as r; url = open(os.environ['GREENLANG_IOT__DATA_DIR'] + '/run/admin-url').read().strip(); r.urlopen(url + '/healthz', timeout=2, context=ssl._create_unverified_context())"]
ENTRYPOINT ["greenlang-iot"]
CMD ["run", "--config", "config/iot-config.yaml", "--devices-file", "devices/devices-registry.json"]
