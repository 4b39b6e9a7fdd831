package pages

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"time"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/internal/sse"
)

const (
	// Events is the type of a stream of events, the only type that a browser's EventSource accepts.
	Events = "text/event-stream"
	// livePause is the time between two looks at a page that is followed.
	livePause = time.Second
)

// livePages are the paths of the pages that have live parts. Others are not followed: each look
// builds the page again.
var livePages = map[string]bool{"/": true, "/activity": true}

// part is a live part of a page as it is now, the data of an event.
type part struct {
	ID   string `json:"id"`
	HTML string `json:"html"`
}

// livePart finds the live parts of a page. The templates have no section in a live part, and
// escape untrusted text, so that none looks like the end of one.
var livePart = regexp.MustCompile(`(?s)<section id="([a-z]+)" data-live[^>]*>(.*?)</section>`)

// partsOf returns the live parts of a page.
func partsOf(body []byte) (parts []part) {
	for _, found := range livePart.FindAllSubmatch(body, -1) {
		parts = append(parts, part{string(found[1]), string(found[2])})
	}
	return parts
}

// follow sends the live parts of a page, and each of them again when it has changed.
func (h *Handler) follow(w http.ResponseWriter, r *http.Request, show view) {
	ctx, leave, err := h.opts.API.Streaming(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	defer leave()
	told := make(map[string]string)
	out := sse.Begin(w)
	out.Follow(ctx, livePause, func() error {
		parts, err := h.look(ctx, r, show)
		for _, one := range parts {
			if last, known := told[one.ID]; known && last == one.HTML { // a part may be empty
				continue
			}
			told[one.ID] = one.HTML
			data, err := json.Marshal(one)
			if err != nil {
				return err
			}
			out.Event("part", "", data)
		}
		return err
	})
}

// look returns the live parts of a page as it is now: none if the mirror is too busy for it.
func (h *Handler) look(ctx context.Context, r *http.Request, show view) (parts []part, err error) {
	err = h.opts.API.Read(r.WithContext(ctx), func(ctx context.Context) error {
		made, err := show(ctx, r)
		if err == nil {
			parts = partsOf(h.execute(r, made))
		}
		return err
	})
	if errors.Is(err, api.ErrBusy) {
		return nil, nil
	}
	return parts, err
}
