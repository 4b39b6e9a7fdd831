package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/weirhq/weir/internal/sse"
	"github.com/weirhq/weir/storage/download"
)

const (
	// maxStreams bounds the clients that follow events or a page, and maxStreamsOfNetwork those of one
	// network. Each has a connection and some KiB. A hidden page follows nothing, and one that finds no
	// place is loaded again from time to time.
	maxStreams          = 64
	maxStreamsOfNetwork = 32
	// eventPause is the time between two writes of a stream.
	eventPause = time.Second
	// streamTime is how long a stream lasts, unless the rules change before. The client's program then asks again,
	// as EventSource does, and its credentials are looked at again.
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

// Close ends the streams of events. No stream begins after it.
func (h *Handler) Close() { h.stop() }

// events follows the mirror for a client, as server-sent events.
func (h *Handler) events(w http.ResponseWriter, r *http.Request) {
	if len(r.URL.Query()) > 0 {
		h.fail(w, r, invalid("events have no parameters"))
		return
	}
	ctx, leave, err := h.Streaming(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	defer leave()
	out := sse.Begin(w)
	if r.Method == http.MethodHead {
		return
	}
	s := &stream{h: h, out: out, seen: h.lastSeen(r), sees: make(map[string]bool), told: make(map[string]string)}
	out.Follow(ctx, eventPause, func() error { return s.add(ctx) })
}

// Streaming returns the context of a stream to the client of a request, which ends after a minute, with
// the rules that have let the client in, and with Close. The caller calls leave when the stream has ended. It returns ErrBusy if there are too many
// streams, or too many to its network.
func (h *Handler) Streaming(r *http.Request) (ctx context.Context, leave func(), err error) {
	place, err := h.streams.take(h.from(r))
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), streamTime)
	ends := []context.Context{h.closing}
	if h.opts.Rules != nil {
		ends = append(ends, h.opts.Rules(r.Context()))
	}
	var stops []func() bool
	for _, end := range ends {
		stops = append(stops, context.AfterFunc(end, cancel))
		if end.Err() != nil {
			cancel() // AfterFunc takes its time
		}
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
		place()
	}, nil
}

// lastSeen returns the number of the last request that a client has seen: what it says after a stream that has
// ended, or else the last one.
func (h *Handler) lastSeen(r *http.Request) uint64 {
	last := h.opts.Recent.Last()
	if seen, err := strconv.ParseUint(r.Header.Get("Last-Event-ID"), 10, 64); err == nil && seen <= last {
		return seen
	}
	return last
}

// stream is the state of one client: the events that it has.
type stream struct {
	h    *Handler
	out  *sse.Stream
	seen uint64            // number of the last request
	told map[string]string // the last event of each kind
	sees map[string]bool   // by the ID of a job, whether the client may know of it
}

// add adds the changes to the stream.
func (s *stream) add(ctx context.Context) error {
	status, running := s.h.sample(ctx)
	downloads, err := s.h.downloadsOf(ctx, running)
	if err != nil {
		return err
	}
	jobs, err := s.current(ctx)
	if err != nil {
		return err
	}
	requests, last, err := s.h.requestsSince(ctx, s.seen, RequestFilter{})
	if err != nil {
		return err
	}
	s.event("status", status)
	s.event("downloads", downloads)
	s.event("jobs", jobs)
	if s.seen = max(s.seen, last); len(requests.Requests) > 0 {
		s.event("requests", requests)
	}
	return nil
}

// event adds an event, unless it is the same as the last one of its kind.
func (s *stream) event(kind string, document any) {
	data, err := json.Marshal(document)
	if err != nil {
		panic(err) // the documents are plain values
	}
	if s.told[kind] == string(data) {
		return
	}
	s.told[kind] = string(data)
	s.out.Event(kind, strconv.FormatUint(s.seen, 10), data)
}
