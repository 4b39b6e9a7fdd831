package pages

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/check"
)

// refresh asks the upstream about the tag of an image.
func (h *Handler) refresh(ctx context.Context, r *http.Request) (string, error) {
	found, err := h.opts.API.Refresh(ctx, r.PostForm.Get("image"))
	if err != nil {
		return "", err
	}
	return link("/image", "name", found.Name, "tag", found.Tag, "done", found.Result), nil
}

// remove takes an image, or all of a repository, out of the cache.
func (h *Handler) remove(ctx context.Context, r *http.Request) (string, error) {
	removed, err := h.opts.API.RemoveImage(ctx, r.PostForm.Get("image"))
	if err != nil {
		return "", err
	}
	_, err = h.opts.API.Repository(ctx, removed.Name)
	if told, ok := errors.AsType[*api.Failure](err); ok && told.Status == http.StatusNotFound {
		return link("/repositories", "done", "removed"), nil
	}
	return link("/repository", "name", removed.Name, "done", "removed"), err
}

// pin keeps an image from eviction.
func (h *Handler) pin(ctx context.Context, r *http.Request) (string, error) {
	pinned, err := h.opts.API.Pin(ctx, r.PostForm.Get("image"))
	if err != nil {
		return "", err
	}
	return imagePage(pinned.Image, "done", "pinned"), nil
}

// unpin ends a pin.
func (h *Handler) unpin(ctx context.Context, r *http.Request) (string, error) {
	if _, err := h.opts.API.Unpin(ctx, r.PostForm.Get("image")); err != nil {
		return "", err
	}
	return link("/pins", "done", "unpinned"), nil
}

// warm starts a job that warms an image.
func (h *Handler) warm(ctx context.Context, r *http.Request) (string, error) {
	image := r.PostForm.Get("image")
	var platforms []string
	if one := r.PostForm.Get("platform"); one != "" {
		platforms = []string{one}
	}
	if _, err := h.opts.API.Warm(ctx, []string{image}, platforms); err != nil {
		return "", err
	}
	return link("/activity", "done", "warming"), nil
}

// cancelJob ends a job.
func (h *Handler) cancelJob(ctx context.Context, r *http.Request) (string, error) {
	if _, err := h.opts.API.CancelJob(ctx, r.PostForm.Get("job")); err != nil {
		return "", err
	}
	return link("/activity", "done", "cancelled"), nil
}

// checkLimit is how long a check of the upstreams takes at most, as weir check --online has it.
const checkLimit = 25 * time.Second

// report is the last check of the upstreams.
type report struct {
	running sync.Mutex // one check at a time: each asks all upstreams

	mu      sync.Mutex
	results []check.Result
	at      time.Time
}

// checkUpstreams probes the upstreams. One check runs at a time.
func (h *Handler) checkUpstreams(ctx context.Context, _ *http.Request) (string, error) {
	if !h.report.running.TryLock() {
		return "", &api.Failure{Status: http.StatusConflict, Message: "Another check is running. Wait until it has ended, then load the page Upstreams again."}
	}
	defer h.report.running.Unlock()
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	results, err := h.opts.Check(ctx)
	if err != nil {
		return "", err
	}
	h.report.mu.Lock()
	defer h.report.mu.Unlock()
	h.report.results, h.report.at = results, time.Now()
	return "/upstreams", nil
}

// withoutImage removes the errors and remarks of a result if the client may not pull the image that the
// check asked for: they may name it. The check takes any cached image of a block.
func (h *Handler) withoutImage(ctx context.Context, r check.Result) check.Result {
	if r.Asked.Name == "" {
		return r
	}
	for _, key := range r.Blocks {
		if h.opts.MayPull(ctx, key, r.Asked) {
			continue
		}
		if len(r.Errors) > 0 {
			r.Errors = []string{"The reason is only shown to clients that may pull all images."}
		}
		r.Remarks = nil
		break
	}
	return r
}

// upstreams shows the last check of the upstreams of blocks that the client may know of.
func (h *Handler) upstreams(ctx context.Context, _ *http.Request) (page, error) {
	h.report.mu.Lock()
	all, at := h.report.results, h.report.at
	h.report.mu.Unlock()
	visible := make(map[string]bool)
	for _, key := range h.blocks(ctx) {
		visible[key] = true
	}
	var shown []check.Result
	for _, one := range all {
		// The errors of an upstream may name any of its blocks.
		hidden := false
		for _, key := range one.Blocks {
			hidden = hidden || !visible[key]
		}
		if !hidden {
			shown = append(shown, h.withoutImage(ctx, one))
		}
	}
	return page{"Upstreams", "upstreams", struct {
		Results []check.Result
		At      time.Time
		Blocks  []string
	}{shown, at, h.blocks(ctx)}}, ctx.Err()
}
