package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/internal/units"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
)

// Pins keep images from eviction.
type Pins interface {
	// All returns the pins, the oldest first.
	All(ctx context.Context) ([]namespace.Pinned, error)
	// Pin records the sender of the request. Its errors are those of [namespace.Pins.Pin].
	Pin(ctx context.Context, repo storage.RepoID, part namespace.Selection) (namespace.Pinned, error)
	// Unpin returns storage.ErrNotExist if there is no such pin.
	Unpin(ctx context.Context, repo storage.RepoID, part namespace.Selection) (namespace.Pinned, error)
	// Limit returns how many bytes the pinned images may have; 0: there is no limit.
	Limit() int64
}

// PinsDocument lists the pins.
type PinsDocument struct {
	Pins  []PinDocument `json:"pins"`
	Bytes int64         `json:"bytes"`
	Limit int64         `json:"limit"`
}

// PinDocument describes a pin.
type PinDocument struct {
	Image  string        `json:"image"`
	Digest digest.Digest `json:"digest"`
	Bytes  int64         `json:"bytes"`
	Since  time.Time     `json:"since"`
	By     string        `json:"by"`
}

// Pins lists the pins of the images that the client may pull.
func (h *Handler) Pins(ctx context.Context) (PinsDocument, error) {
	all, err := h.opts.Pins.All(ctx)
	document := PinsDocument{Pins: []PinDocument{}, Limit: h.opts.Pins.Limit()}
	for _, one := range all {
		repo, ok := h.opts.Names.Of(one.Repo)
		if !ok || !h.opts.Names.Sees(ctx, repo) || !h.mayPull(ctx, repo, referenceOf(selectionOf(one))) {
			continue
		}
		document.Pins = append(document.Pins, pinOf(repo, one))
		document.Bytes += one.Bytes
	}
	return document, cmp.Or(err, ctx.Err()) // the rules may not have been asked about all
}

// pinOf returns the document of a pin.
func pinOf(repo Repository, p namespace.Pinned) PinDocument {
	return PinDocument{referenceOf(selectionOf(p)).Join(repo.Name), p.Digest, p.Bytes, p.Since.UTC(), p.By}
}

// selectionOf returns the tag, or else the manifest, that a pin is of.
func selectionOf(p namespace.Pinned) namespace.Selection {
	return namespace.Selection{Tag: p.Tag, Digest: p.Digest}
}

// Pin keeps an image from eviction: name:tag, or name@digest.
func (h *Handler) Pin(ctx context.Context, image string) (PinDocument, error) {
	repo, part, err := h.pinnable(ctx, image)
	if err != nil {
		return PinDocument{}, err
	}
	pinned, err := namespace.Pinned{}, storage.ErrNotExist
	if h.mayPull(ctx, repo, referenceOf(part)) {
		pinned, err = h.opts.Pins.Pin(ctx, repo.ID, part)
	}
	if err != nil {
		return PinDocument{}, h.unpinnable(ctx, image, err)
	}
	return pinOf(repo, pinned), nil
}

// Unpin ends a pin, and returns its document.
func (h *Handler) Unpin(ctx context.Context, image string) (PinDocument, error) {
	repo, part, err := h.pinnable(ctx, image)
	if err != nil {
		return PinDocument{}, err
	}
	pinned, err := namespace.Pinned{}, storage.ErrNotExist
	if h.mayPull(ctx, repo, referenceOf(part)) {
		pinned, err = h.opts.Pins.Unpin(ctx, repo.ID, part)
	}
	if errors.Is(err, storage.ErrNotExist) && ctx.Err() == nil { // else the rules may not have been asked
		return PinDocument{}, &Failure{http.StatusNotFound, "MANIFEST_UNKNOWN", "the image is not pinned. weir pin, or " + Prefix + "pins, lists the pins"}
	}
	if err != nil {
		return PinDocument{}, h.unpinnable(ctx, image, err)
	}
	return pinOf(repo, pinned), nil
}

// pinnable returns the tag or manifest that a text names.
func (h *Handler) pinnable(ctx context.Context, image string) (Repository, namespace.Selection, error) {
	repo, part, err := h.selected(ctx, image)
	if err == nil && part == (namespace.Selection{}) {
		err = invalid("a pin needs a :tag or a @digest after the name of the repository")
	}
	return repo, part, err
}

// unpinnable returns the error for a change of a pin that failed.
func (h *Handler) unpinnable(ctx context.Context, image string, err error) error {
	switch {
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded):
		return cmp.Or(ctx.Err(), err)
	case errors.Is(err, storage.ErrNotExist):
		return &Failure{http.StatusNotFound, "MANIFEST_UNKNOWN", "the image is not cached. Pull or warm it, then pin it"}
	case errors.Is(err, namespace.ErrTooManyPins):
		return &Failure{http.StatusConflict, "DENIED", "there are too many pins. Unpin other images"}
	case errors.Is(err, namespace.ErrPinsFull):
		return &Failure{http.StatusConflict, "DENIED", "the pinned images would take more than " + units.IEC(h.opts.Pins.Limit()) + ", which is half of the size of the store. Unpin other images, or make the store larger"}
	}
	h.opts.Logger.Warn("cannot change a pin. Check that the store is writable", "image", printable.Line(image, 2*maxText), "error", err)
	return &Failure{http.StatusInternalServerError, "UNKNOWN", "the pin cannot be changed. The log of the mirror has the reason"}
}

func (h *Handler) pins(ctx context.Context, _ *http.Request) (any, error) { return h.Pins(ctx) }

func (h *Handler) pin(ctx context.Context, r *http.Request) (any, error) {
	return h.Pin(ctx, r.PathValue("image"))
}

func (h *Handler) unpin(ctx context.Context, r *http.Request) (any, error) {
	return h.Unpin(ctx, r.PathValue("image"))
}
