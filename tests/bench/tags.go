package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	tagRounds = 4
	tagPulls  = 50 // of each kind, in each round: each of another tag, so that none joins the tries of one before
	// tagPause is the time between two pulls. The tries behind an answer take about 0.6 s, and
	// a block makes 64 lookups at once.
	tagPause = 20 * time.Millisecond
	// tagEnd is the time after a round until its tries are over.
	tagEnd = time.Second
	// tagDistance is the time that the upstream takes to answer where it is far away.
	tagDistance = 20 * time.Millisecond
)

// tagUpstream is a registry whose tags all name one manifest.
type tagUpstream struct {
	url      string
	server   *http.Server
	body     string
	distance atomic.Int64 // time before an answer
	mode     atomic.Pointer[string]
	requests atomic.Int64
}

func startTagUpstream() (*tagUpstream, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	up := &tagUpstream{
		url:  "http://" + listener.Addr().String(),
		body: `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","layers":[]}`,
	}
	up.server = &http.Server{Handler: up, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = up.server.Serve(listener) }()
	return up, nil
}

// ServeHTTP answers as the mode says: 503, reset, or as a registry does.
func (up *tagUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	up.requests.Add(1)
	time.Sleep(time.Duration(up.distance.Load()))
	switch *up.mode.Load() {
	case "503":
		http.Error(w, "no backend", http.StatusServiceUnavailable)
		return
	case "reset":
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Docker-Content-Digest", digest.FromString(up.body).String())
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	w.Header().Set("Content-Length", fmt.Sprint(len(up.body)))
	if r.Method == http.MethodGet {
		_, _ = io.WriteString(w, up.body)
	}
}

// tagCase is a pull of a cached tag whose check is due.
type tagCase struct {
	label    string
	tables   string // of the mirror's configuration
	mode     string
	distance time.Duration
}

// cachedTags measures how long a client waits for a cached tag that has to be checked, while
// the upstream is far away or fails. The cases take turns.
func cachedTags(ctx context.Context, m *mirror, _ *upstream) (rows []row, err error) {
	up, err := startTagUpstream()
	if err != nil {
		return nil, err
	}
	defer up.server.Close()
	swr := "[global]\ntag_swr = \"30s\"\n"
	cases := []tagCase{
		{"cached tag, upstream 20 ms away", "", "ok", tagDistance},
		{"cached tag, upstream 20 ms away, tag_swr", swr, "ok", tagDistance},
		{"cached tag, upstream answers 503", "", "503", 0},
		{"cached tag, upstream resets connections", "", "reset", 0},
	}
	mirrors := map[string]*mirror{}
	for i, c := range cases {
		if mirrors[c.tables] != nil {
			continue
		}
		m, err := startMirror(ctx, filepath.Join(filepath.Dir(filepath.Dir(m.config)), fmt.Sprint("tags", i)), up.url, c.tables)
		if err != nil {
			return nil, err
		}
		defer m.stop()
		mirrors[c.tables] = m
	}
	times, requests := make([][]time.Duration, len(cases)), make([]int64, len(cases))
	for range tagRounds {
		for i, c := range cases {
			took, asked, err := up.pulls(ctx, mirrors[c.tables], c)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.label, err)
			}
			times[i], requests[i] = append(times[i], took...), requests[i]+asked
		}
	}
	for i, c := range cases {
		slices.Sort(times[i])
		millis := func(part float64) float64 {
			return float64(times[i][int(part*float64(len(times[i])-1))].Microseconds()) / 1000
		}
		rows = append(rows, row{
			c.label + ": median time; 99 %; fastest; upstream requests for a pull",
			fmt.Sprintf("%.1f ms; %.1f ms; %.1f ms; %.1f", millis(0.5), millis(0.99), millis(0), float64(requests[i])/float64(len(times[i]))),
		})
	}
	return rows, nil
}

// pulls makes the pulls of a round. It returns their times and the upstream requests that
// they caused.
func (up *tagUpstream) pulls(ctx context.Context, m *mirror, c tagCase) (times []time.Duration, asked int64, err error) {
	path := func(i int) string { return fmt.Sprint("/v2/bench/app/manifests/v", i) }
	sound := "ok"
	up.mode.Store(&sound)
	up.distance.Store(0)
	for i := range tagPulls { // so that they are cached
		if err := m.pull(ctx, path(i)); err != nil {
			return nil, 0, err
		}
	}
	time.Sleep(tagEnd)
	up.mode.Store(&c.mode)
	up.distance.Store(int64(c.distance))
	before := up.requests.Load()
	for i := range tagPulls {
		began := time.Now()
		if err := m.pull(ctx, path(i)); err != nil {
			return nil, 0, err
		}
		times = append(times, time.Since(began))
		time.Sleep(tagPause)
	}
	time.Sleep(tagEnd)
	return times, up.requests.Load() - before, nil
}
