# docker build . in a clone of the repository compiles Weir and makes its image. The version comes from
# the tags, so .git is sent along. An image without access to the internet: make image.
ARG GO_IMAGE=golang:1.26-trixie

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY . .
RUN ["make", "build"]

FROM scratch
COPY --from=build /src/dist/weir /weir
COPY contrib/docker/config.toml /etc/weir/config.toml
# A directory that the user below may write to; scratch has no mkdir.
COPY --chown=65532:65532 contrib/docker/data /var/lib/weir
USER 65532:65532
VOLUME /var/lib/weir
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=6s --start-period=5s CMD ["/weir", "healthcheck"]
ENTRYPOINT ["/weir"]
CMD ["serve"]
