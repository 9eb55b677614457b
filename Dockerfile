# Unverified: written for Debian 13, never built or run by its authors so far.
FROM debian:trixie-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends \
      ca-certificates curl gcc libc6-dev pkg-config clang cmake make \
      libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev \
      libwayland-dev libxkbcommon-dev libpixman-1-dev libpulse-dev libopus-dev \
 && rm -rf /var/lib/apt/lists/*
RUN curl -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
ENV PATH=/root/.cargo/bin:$PATH
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:trixie-slim
RUN apt-get update && apt-get install -y --no-install-recommends \
      gstreamer1.0-tools gstreamer1.0-libav gstreamer1.0-plugins-base gstreamer1.0-plugins-good \
      gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly \
      libwayland-server0 libwayland-client0 libxkbcommon0 libpixman-1-0 libpulse0 libopus0 \
      pulseaudio foot fuzzel swaybg xkb-data fonts-dejavu-core \
 && rm -rf /var/lib/apt/lists/*
# A warm plugin registry: the first launch does not scan.
ENV GST_REGISTRY=/var/cache/gstreamer/registry.bin GST_REGISTRY_FORK=no
RUN mkdir -p /var/cache/gstreamer && gst-inspect-1.0 >/dev/null
COPY --from=build /src/target/release/moonshard /usr/local/bin/moonshard
# io_uring must be allowed: --security-opt seccomp=unconfined, or a profile with io_uring_*.
EXPOSE 47984/tcp 47989/tcp 48010/tcp 47998/udp 47999/udp 48000/udp
VOLUME /var/lib/moonshard
ENTRYPOINT ["moonshard"]
CMD ["serve"]
