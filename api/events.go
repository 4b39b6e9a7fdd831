package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/weirhq/weir/storage/download"
)

const (
	// maxStreams bounds the clients that follow events. Each has a connection and some KiB.
	maxStreams = 64
	// eventPause is the time between two writes of a stream.
	eventPause = time.Second
	// heartbeat is the longest silence of a stream. Proxies end connections that are silent for a minute.
	heartbeat = 15 * time.Second
	// streamTime is how long a stream lasts. The client's program then asks again, as EventSource does, and the rules
	// and the credentials are looked at anew.
	streamTime = time.Minute
	// readyAge is for how long it counts that the mirror is ready: a file is created in the store to find out.
	readyAge = 5 * time.Second
)

// NowDocument is the event status.
type NowDocument struct {
	Now   Amounts `json:"now"` // of the last minute
	Ready bool    `json:"ready"`
}

// sampler looks at the mirror for all streams, once in a pause.
type sampler struct {
	mu        sync.Mutex
	at, asked time.Time
	status    NowDocument
	running   []download.State
}

// sample returns how the mirror is now.
func (h *Handler) sample(ctx context.Context) (NowDocument, []download.State) {
	s := &h.sampler
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !s.asked.IsZero() && now.Sub(s.at) < eventPause/2 {
		return s.status, s.running
	}
	if s.asked.IsZero() || now.Sub(s.asked) >= readyAge {
		s.status.Ready, _ = h.opts.State.Problems(context.WithoutCancel(ctx)) // for the others too
		s.asked = now
	}
	s.at, s.status.Now, s.running = now, amountsOf(h.opts.Traffic.Now()), h.opts.Downloads.Running()
	return s.status, s.running
}

// Close ends the streams of events, and begins no more.
func (h *Handler) Close() { h.stop() }

// events follows the mirror for a client, as server-sent events.
func (h *Handler) events(w http.ResponseWriter, r *http.Request) {
	if len(r.URL.Query()) > 0 {
		h.fail(w, r, invalid("events have no parameters"))
		return
	}
	select {
	case h.streams <- struct{}{}:
		defer func() { <-h.streams }()
	default:
		h.fail(w, r, errBusy)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // of nginx, which would hold events back
	if r.Method == http.MethodHead {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), streamTime)
	defer cancel()
	defer context.AfterFunc(h.closing, cancel)()
	s := &stream{h: h, w: w, seen: h.firstUnseen(r), sees: make(map[string]bool)}
	fmt.Fprint(w, "retry: 1000\n\n")
	ticker := time.NewTicker(eventPause)
	defer ticker.Stop()
	for ctx.Err() == nil && s.write(ctx) == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// firstUnseen returns the number of the last request that a client has seen: what it says after a stream that has
// ended, or else the last one.
func (h *Handler) firstUnseen(r *http.Request) uint64 {
	last := h.opts.Recent.Last()
	if seen, err := strconv.ParseUint(r.Header.Get("Last-Event-ID"), 10, 64); err == nil && seen <= last {
		return seen
	}
	return last
}

// stream is what one client was told.
type stream struct {
	h      *Handler
	w      http.ResponseWriter
	seen   uint64            // number of the last request
	told   map[string]string // the last event of each kind
	sees   map[string]bool   // by the ID of a job, whether the client may know of it
	spoken time.Time
}

// write sends the changes. A client that reads nothing is cut off by the server, and the write fails.
func (s *stream) write(ctx context.Context) error {
	status, running := s.h.sample(ctx)
	if err := s.event("status", status); err != nil {
		return err
	}
	downloads, err := s.h.downloadsOf(ctx, running)
	if err == nil {
		err = s.event("downloads", downloads)
	}
	if err != nil {
		return err
	}
	jobs, err := s.current(ctx)
	if err == nil {
		err = s.event("jobs", jobs)
	}
	if err != nil {
		return err
	}
	requests, last, err := s.h.requestsSince(ctx, s.seen, RequestFilter{})
	if s.seen = max(s.seen, last); err == nil && len(requests.Requests) > 0 {
		err = s.event("requests", requests)
	}
	if err == nil && time.Since(s.spoken) >= heartbeat {
		err = s.text(": alive\n\n")
	}
	if err == nil {
		err = http.NewResponseController(s.w).Flush()
	}
	return err
}

// event writes an event, unless it is the same as the last one of its kind.
func (s *stream) event(kind string, document any) error {
	data, err := json.Marshal(document)
	if err != nil || s.told[kind] == string(data) {
		return err
	}
	if s.told == nil {
		s.told = make(map[string]string)
	}
	s.told[kind] = string(data)
	return s.text(fmt.Sprintf("event: %s\nid: %d\ndata: %s\n\n", kind, s.seen, data))
}

func (s *stream) text(text string) error {
	s.spoken = time.Now()
	_, err := fmt.Fprint(s.w, text)
	return err
}
