package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"

	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
)

// Remover takes images out of the cache.
type Remover interface {
	// Remove removes a part of a repository. Its errors are those of [namespace.Remover.Remove].
	Remove(ctx context.Context, repo storage.RepoID, part namespace.Selection) (namespace.Removed, error)
}

// RemovedDocument counts what a removal removed from the cache.
type RemovedDocument struct {
	Name      string   `json:"name"`
	Tags      []string `json:"tags"`
	Manifests int      `json:"manifests"`
	Contents  int      `json:"contents"`
	Bytes     int64    `json:"bytes"`
}

// RemoveImage takes an image out of the cache: name:tag, name@digest, or name for all of a
// repository. The next pull fetches it again.
func (h *Handler) RemoveImage(ctx context.Context, image string) (RemovedDocument, error) {
	repo, part, err := h.selected(ctx, image)
	if err == nil {
		err = h.removable(ctx, image, repo, part)
	}
	if err != nil {
		return RemovedDocument{}, err
	}
	removed, err := h.opts.Remover.Remove(ctx, repo.ID, part)
	h.figures.Remove(repo.ID)
	if err != nil {
		return RemovedDocument{}, h.unremoved(ctx, image, err)
	}
	document := RemovedDocument{repo.Name, []string{}, removed.Manifests, removed.Contents, removed.Bytes}
	for _, tag := range removed.Tags {
		// A tag that the client has not named may have come since removable has looked.
		if tag == part.Tag || h.mayList(ctx, repo) && h.mayPull(ctx, repo, oci.ByTag(tag)) {
			document.Tags = append(document.Tags, tag)
		}
	}
	return document, nil
}

// removable returns the error for a part of a repository that the client may not remove. It may remove
// what it may pull. A removal of a manifest removes all tags that name it, and one of a whole repository
// all of its tags, so the client must be allowed to pull each of them.
func (h *Handler) removable(ctx context.Context, image string, repo Repository, part namespace.Selection) error {
	whole := part == namespace.Selection{}
	if !whole && !h.mayPull(ctx, repo, referenceOf(part)) {
		return h.unremoved(ctx, image, storage.ErrNotExist)
	}
	if part.Tag != "" {
		return nil
	}
	refused := &Failure{http.StatusForbidden, "DENIED", "the access rules of the mirror do not let this client list or pull all tags that would be removed. Remove single tags"}
	if whole && !h.mayList(ctx, repo) {
		return cmp.Or(ctx.Err(), error(refused))
	}
	tags, err := h.opts.Inventory.Tags(ctx, repo.ID)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if err := ctx.Err(); err != nil {
			return err
		}
		if h.mayPull(ctx, repo, oci.ByTag(tag)) {
			continue
		}
		if whole {
			return cmp.Or(ctx.Err(), error(refused))
		}
		known, err := h.opts.Inventory.Tag(ctx, repo.ID, tag)
		if err != nil && !errors.Is(err, storage.ErrNotExist) {
			return err
		}
		if err == nil && known.Descriptor.Digest == part.Digest {
			return cmp.Or(ctx.Err(), error(refused))
		}
	}
	return nil
}

// selected returns the part of a repository that a text names.
func (h *Handler) selected(ctx context.Context, text string) (Repository, namespace.Selection, error) {
	image, err := oci.ParseImage(text)
	if err != nil || len(image.Name) > maxText {
		return Repository{}, namespace.Selection{}, invalid("an image is a name, such as docker.io%2Flibrary%2Falpine, with a :tag, a @digest or, for the whole repository, neither. Write slashes as %2F")
	}
	repo, ok := h.opts.Names.Find(image.Name)
	if !ok || !h.opts.Names.Sees(ctx, repo) {
		return Repository{}, namespace.Selection{}, unknownRepository(ctx)
	}
	part := namespace.Selection{Digest: image.Reference.Digest()}
	if image.Name != text && image.Reference.IsTag() {
		part.Tag = image.Reference.Tag()
	}
	return repo, part, nil
}

// unremoved returns the error for a removal that failed.
func (h *Handler) unremoved(ctx context.Context, image string, err error) error {
	switch {
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded):
		return cmp.Or(ctx.Err(), err)
	case errors.Is(err, storage.ErrNotExist):
		return &Failure{http.StatusNotFound, "MANIFEST_UNKNOWN", "no part of the image is cached, so there is nothing to remove"}
	case errors.Is(err, namespace.ErrPinned):
		return &Failure{http.StatusConflict, "DENIED", "the image, or an image in the repository, is pinned. Unpin it first: weir pin, or " + Prefix + "pins, lists the pins"}
	case errors.Is(err, namespace.ErrTooMany):
		return &Failure{http.StatusConflict, "UNSUPPORTED", "the repository has too many objects for one removal. Remove the whole repository, or evict by age with weir gc"}
	}
	h.opts.Logger.Warn("cannot remove all of an image. Check that the store is writable", "image", printable.Line(image, 2*maxText), "error", err)
	return &Failure{http.StatusInternalServerError, "UNKNOWN", "not all of the image was removed. The log of the mirror has the reason. Correct it, then send the request again"}
}

func (h *Handler) removeImage(ctx context.Context, r *http.Request) (any, error) {
	return h.RemoveImage(ctx, r.PathValue("image"))
}
