# syntax=docker/dockerfile:1
# avsweep in a container: coordinator, worker, judge and the users' verbs are one binary.
#
#   docker build -t avsweep:0.1.0 .
#
# With CUDA (builds without a GPU; CUDA_COMPUTE_CAP: 80 A100, 89 L4 and RTX 40, 90 H100 and H200):
#   docker build -t avsweep-cuda:0.1.0 --build-arg FEATURES=cuda --build-arg CUDA_COMPUTE_CAP=90 \
#     --build-arg BUILD_IMAGE=nvidia/cuda:13.0.1-devel-ubuntu24.04 \
#     --build-arg RUNTIME_IMAGE=nvidia/cuda:13.0.1-runtime-ubuntu24.04 .
#
# That image's avsweep is linked to the driver's library, which the NVIDIA container toolkit brings: it runs on GPU
# machines only.
#
# BUILD_IMAGE needs a C compiler and CA certificates, RUNTIME_IMAGE a glibc no older than BUILD_IMAGE's and bash.
ARG RUST_IMAGE=rust:1.95-trixie
ARG BUILD_IMAGE=${RUST_IMAGE}
ARG RUNTIME_IMAGE=debian:trixie-slim

FROM ${RUST_IMAGE} AS rust

# ---- what all build stages stand on: a C compiler and Rust
FROM ${BUILD_IMAGE} AS toolchain
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:$PATH
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo /usr/local/cargo
WORKDIR /build

# ---- the workspace with empty sources: changes only when a manifest or the lock file does
FROM toolchain AS skeleton
COPY . .
RUN bash deploy/docker/skeleton.sh /build /skeleton

# ---- every dependency, compiled once: this layer is reused until a manifest changes
FROM toolchain AS dependencies
ARG FEATURES=""
ARG CUDA_COMPUTE_CAP=80
ENV CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP}
COPY --from=skeleton /skeleton /build
RUN cargo build --release --locked --package avsweep-cli --features "${FEATURES}"

# ---- avsweep itself
FROM dependencies AS build
COPY . .
# Sources carry the times of the checkout, which can be older than the empty ones' build: cargo would keep that.
RUN find . -path ./target -prune -o -type f -exec touch {} + \
  && cargo build --release --locked --package avsweep-cli --features "${FEATURES}" \
  && install -D --strip target/release/avsweep /out/usr/local/bin/avsweep \
  && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt \
  && install -d -o 65532 -g 65532 /out/var/lib/avsweep /out/var/cache/avsweep

# ---- the binary, the public authorities' certificates, and two empty folders
FROM ${RUNTIME_IMAGE}
COPY --from=build /out /
ENV AVSWEEP_CACHE=/var/cache/avsweep AVSWEEP_LOG_FORMAT=json
USER 65532:65532
WORKDIR /var/lib/avsweep
EXPOSE 7700
# A coordinator says itself whether it is ready; with TLS, only that it listens is looked at. Workers and judges do not
# listen: as long as they run, their health is what `avsweep workers ls` says.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["bash", "-c", "\
  tr '\\0' '\\n' </proc/1/cmdline | grep -qx coordinator || exit 0; \
  port=${AVSWEEP_METRICS_LISTEN:-127.0.0.1:7701}; \
  exec 3<>/dev/tcp/127.0.0.1/${port##*:} || exit 1; \
  [[ -z ${AVSWEEP_TLS_CERT:-} ]] || exit 0; \
  printf 'GET /readyz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3; \
  read -r _ status _ <&3 && [[ $status == 200 ]]"]
ENTRYPOINT ["avsweep"]
CMD ["--help"]
