package api

import (
	"context"
	"net/http"
	"time"

	"github.com/weirhq/weir/namespace/traffic"
	"github.com/weirhq/weir/storage/catalog"
)

// State returns the state of the mirror, without the parts that a client may not see.
type State interface {
	Build() Build
	// Problems are those that keep the mirror from a part of its work. It is not ready if it cannot serve.
	Problems(ctx context.Context) (ready bool, problems []Problem)
	Store(ctx context.Context) Store
	// Blocks returns the blocks that the client may know of.
	Blocks(ctx context.Context) []Block
	// Upstreams returns the registries of the blocks that the client may know of.
	Upstreams(ctx context.Context) []Upstream
	// SeesAll reports whether the client may know of all blocks.
	SeesAll(ctx context.Context) bool
	// Configuration returns nothing to a client that may not know of all blocks.
	Configuration(ctx context.Context) []Setting
}

// Traffic has the figures of the answers.
type Traffic interface {
	// Figures may read records. Those of the last minute are of this mirror alone.
	Figures(ctx context.Context) (traffic.Figures, error)
	// Now is the last minute.
	Now() catalog.Amounts
}

// Build names the program.
type Build struct {
	Version, Revision, Go string
	Started               time.Time // of the process
}

// Problem is a failure that lasts, with what an operator does about it.
type Problem struct {
	Summary string `json:"summary"`
	Remedy  string `json:"remedy"`
}

// Store is the content of this machine.
type Store struct {
	Kind    string `json:"kind"` // disk, or bucket if the content is in a bucket too
	Bytes   int64  `json:"bytes"`
	Limit   int64  `json:"limit"` // 0: there is none
	Objects int64  `json:"objects"`
	Free    *int64 `json:"free,omitempty"` // nil: the filesystem does not say
	// EvictionAge is how long the content that was evicted last had not been used; nil if nothing was evicted since the start.
	EvictionAge *float64 `json:"evictionAgeSeconds,omitempty"`
	Evicted     Evicted  `json:"evicted"`
	Bucket      *Bucket  `json:"bucket,omitempty"` // nil: there is none, or this mirror is not the one that evicts there
}

// Evicted is the content that limits took out of a store since the start of the mirror.
type Evicted struct {
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

// Bucket is the content of a bucket when it was last looked through.
type Bucket struct {
	Bytes   int64     `json:"bytes"` // with the records
	Limit   int64     `json:"limit"` // 0: there is none
	Objects int64     `json:"objects"`
	Listed  time.Time `json:"listed"`
}

// Block is a repository block and the stored content that it brought in.
type Block struct {
	Name  string `json:"name"`
	Bytes *int64 `json:"bytes,omitempty"` // nil: the store is not indexed yet
	Limit int64  `json:"limit"`           // 0: there is none
}

// Upstream is a registry that blocks read.
type Upstream struct {
	Name          string           `json:"name"`
	Blocks        []string         `json:"blocks"`
	State         string           `json:"state"`
	CooldownUntil time.Time        `json:"cooldownUntil,omitzero"`
	RateLimit     *RateLimit       `json:"rateLimit,omitempty"`
	Requests      int64            `json:"requests"`
	Errors        map[string]int64 `json:"errors"`
	Latency       float64          `json:"latencySeconds"` // 0: nothing was answered yet
}

// RateLimit is the rate limit that a registry last reported.
type RateLimit struct {
	Limit     int `json:"limit"`
	Remaining int `json:"remaining"`
}

// Setting is a value of the configuration in force, in TOML and without secrets.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"`
}

// Status is the state of the mirror and a summary of its answers.
type Status struct {
	Version       string     `json:"version"`
	Revision      string     `json:"revision"`
	Go            string     `json:"go"`
	Started       time.Time  `json:"started"`
	Ready         bool       `json:"ready"`
	Problems      []Problem  `json:"problems"`
	Store         Store      `json:"store"`
	Blocks        []Block    `json:"blocks"`
	Upstreams     []Upstream `json:"upstreams"`
	Traffic       Periods    `json:"traffic"`
	Curve         []Point    `json:"curve"`
	Configuration []Setting  `json:"configuration"`
}

// Periods are the amounts of the last minute, hour, day and 30 days.
type Periods struct {
	Now   Amounts `json:"now"`
	Hour  Amounts `json:"hour"`
	Day   Amounts `json:"day"`
	Month Amounts `json:"month"`
}

// Amounts are the figures of the answers in a period.
type Amounts struct {
	Requests int64   `json:"requests"`
	Hits     int64   `json:"hits"`
	HitRatio float64 `json:"hitRatio"` // 0 without requests
	Served   int64   `json:"served"`
	Fetched  int64   `json:"fetched"`
	Saved    int64   `json:"saved"`
}

// Point has the figures of the answers in a quarter of an hour.
type Point struct {
	Time     time.Time `json:"time"`
	Requests int64     `json:"requests"`
	Hits     int64     `json:"hits"`
	HitRatio float64   `json:"hitRatio"` // 0 without requests
	Served   int64     `json:"served"`
	Fetched  int64     `json:"fetched"`
	Saved    int64     `json:"saved"`
}

// amountsOf returns amounts with those that follow from them. More bytes may have been fetched than served, for
// example by prefetches; then none were saved.
func amountsOf(a catalog.Amounts) Amounts {
	all := Amounts{Requests: a.Requests, Hits: a.Hits, Served: a.Served, Fetched: a.Fetched, Saved: max(0, a.Served-a.Fetched)}
	if a.Requests > 0 {
		all.HitRatio = float64(a.Hits) / float64(a.Requests)
	}
	return all
}

// Status returns the state of the mirror and its traffic.
func (h *Handler) Status(ctx context.Context) (Status, error) {
	f, unread := h.opts.Traffic.Figures(ctx)
	if ctx.Err() != nil {
		return Status{}, ctx.Err()
	}
	build := h.opts.State.Build()
	s := Status{
		Version: build.Version, Revision: build.Revision, Go: build.Go, Started: build.Started, Store: h.opts.State.Store(ctx),
		Blocks:    append([]Block{}, h.opts.State.Blocks(ctx)...),
		Upstreams: append([]Upstream{}, h.opts.State.Upstreams(ctx)...), Configuration: append([]Setting{}, h.opts.State.Configuration(ctx)...),
		Traffic: Periods{amountsOf(f.Now), amountsOf(f.Hour), amountsOf(f.Day), amountsOf(f.Month)},
		Curve:   make([]Point, len(f.Curve)),
	}
	ready, problems := h.opts.State.Problems(ctx)
	s.Ready, s.Problems = ready, append([]Problem{}, problems...)
	// An operator who looks for the fault of an unreadable store needs the rest all the more.
	if unread != nil {
		h.opts.Logger.Warn("the API cannot read the traffic of all mirrors. Check that the store is readable", "error", unread)
		s.Problems = append(s.Problems, Problem{"The traffic of all mirrors cannot be read, so these figures are incomplete", "Check that the store is readable. The log of the mirror has the reason"})
	}
	for i, p := range f.Curve {
		all := amountsOf(p.Amounts)
		s.Curve[i] = Point{p.Time, all.Requests, all.Hits, all.HitRatio, all.Served, all.Fetched, all.Saved}
	}
	return s, ctx.Err() // the rules may not have been asked about all
}

func (h *Handler) status(ctx context.Context, _ *http.Request) (any, error) { return h.Status(ctx) }
