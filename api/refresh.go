package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
)

// maxBody bounds the body of a request. The longest image has less than a KiB.
const maxBody = 4 << 10

// Refresher asks upstreams about tags.
type Refresher interface {
	// Refresh asks the upstream of a repository about a tag, however recently it was checked.
	// Its errors are those of [namespace.Namespace.Refresh].
	Refresh(ctx context.Context, repo Repository, tag string) (*namespace.Manifest, error)
}

type refreshRequest struct {
	Image string `json:"image"`
}

// RefreshDocument is the result of a refresh.
type RefreshDocument struct {
	Name      string        `json:"name"`
	Tag       string        `json:"tag"`
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Result    string        `json:"result"`
}

// results are the results of a refresh by what the lookup found. Another one found a manifest
// for a tag that was not cached.
var results = map[namespace.CacheStatus]string{
	namespace.Revalidated: "unchanged", namespace.Moved: "moved", namespace.Passed: "not stored",
}

// refresh asks the upstream about the tag of the image in the body.
func (h *Handler) refresh(ctx context.Context, r *http.Request) (any, error) {
	var request refreshRequest
	decoder := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		return nil, invalid(`the body must be a JSON object such as {"image": "docker.io/library/alpine:3"}`)
	}
	return h.Refresh(ctx, request.Image)
}

// Refresh asks the upstream about the tag of an image, such as docker.io/library/alpine:3.
func (h *Handler) Refresh(ctx context.Context, text string) (RefreshDocument, error) {
	image, err := oci.ParseImage(text)
	if err != nil || !image.Reference.IsTag() || len(image.Name) > maxText {
		return RefreshDocument{}, invalid(`image must be a name with a tag, such as "docker.io/library/alpine:3". The content of a digest never changes`)
	}
	repo, ok := h.opts.Names.Find(image.Name)
	if !ok || !h.opts.Names.Sees(ctx, repo) {
		return RefreshDocument{}, unknownRepository(ctx)
	}
	if !h.mayPull(ctx, repo, image.Reference) { // the answer has the digest of the tag
		return RefreshDocument{}, h.unrefreshed(ctx, image, upstream.ErrNotFound)
	}
	m, err := h.opts.Refresher.Refresh(ctx, repo, image.Reference.Tag())
	if err != nil {
		return RefreshDocument{}, h.unrefreshed(ctx, image, err)
	}
	result := results[m.Cache]
	if result == "" {
		result = "fetched"
	}
	return RefreshDocument{repo.Name, image.Reference.Tag(), m.Descriptor.Digest, m.Descriptor.MediaType, result}, nil
}

// unrefreshed returns the error for a refresh that failed.
func (h *Handler) unrefreshed(ctx context.Context, image oci.Image, err error) error {
	_, isOffline := errors.AsType[*namespace.OfflineError](err)
	_, isBusy := errors.AsType[*namespace.BusyError](err)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case isOffline:
		return &Failure{http.StatusConflict, "UNSUPPORTED", "the block of the repository is offline, so the mirror does not contact its upstream"}
	case isBusy:
		return ErrBusy
	case errors.Is(err, upstream.ErrNotFound):
		return &Failure{http.StatusNotFound, "MANIFEST_UNKNOWN", "the upstream has no such tag, or this client may not pull it"}
	}
	h.opts.Logger.Warn("cannot refresh a tag. Check its upstream", "image", image.String(), "error", err)
	return &Failure{http.StatusBadGateway, "UNAVAILABLE", "the upstream could not be asked about the tag. The log of the mirror has the reason"}
}
