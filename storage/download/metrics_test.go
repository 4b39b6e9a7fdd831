package download_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weirhq/weir/storage/download"
)

// A download's end is counted once, by its result, and the bytes that arrived are timed.
func TestDownloadMetrics(t *testing.T) {
	for result, c := range map[string]struct {
		origin *origin
		script func(*setup)
		leave  bool // the only client does, in the middle
	}{
		"stored":    {origin: &origin{}},
		"unstored":  {origin: &origin{}, script: func(s *setup) { s.store.FailCommit(errors.New("disk on fire")) }},
		"corrupt":   {origin: &origin{corrupt: func(p []byte) []byte { p[9] ^= 1; return p }}},
		"failed":    {origin: &origin{refuse: errors.New("503")}},
		"abandoned": {origin: &origin{step: make(chan int)}, leave: true},
	} {
		t.Run(result, func(t *testing.T) {
			registry := prometheus.NewPedanticRegistry()
			s := newSetup(t, func(o *download.Options) {
				o.Metrics = download.NewMetrics(registry)
				o.OnUnattended = func(f *download.Download) { f.Abandon() }
			})
			if c.script != nil {
				c.script(s)
			}
			o := c.origin
			o.body = random(1000)
			r := s.reader(t, t.Context(), digest.FromBytes(o.body), o.source(ours))
			if c.leave {
				o.step <- 100
			} else {
				readAll(r)
			}
			r.Close()
			if err := s.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := "# HELP weir_downloads_ended_total Downloads from upstreams that ended, by result: stored, unstored (the store did not take it), corrupt, failed (no upstream delivered it), abandoned (its last client left) or slow (no client waited, and its upstream was too slow).\n# TYPE weir_downloads_ended_total counter\n"
			for _, other := range []string{"abandoned", "corrupt", "failed", "slow", "stored", "unstored"} {
				want += `weir_downloads_ended_total{result="` + other + `"} `
				if other == result {
					want += "1\n"
				} else {
					want += "0\n"
				}
			}
			if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "weir_downloads_ended_total"); err != nil {
				t.Error(err)
			}
			timed := uint64(0)
			if result == "stored" {
				timed = 1
			}
			if got := durations(t, registry); got != timed {
				t.Errorf("%d downloads are timed, want %d", got, timed)
			}
		})
	}
}

func durations(t *testing.T, registry *prometheus.Registry) uint64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "weir_download_duration_seconds" {
			return family.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	t.Fatal("weir_download_duration_seconds is missing")
	return 0
}

// Downloads beyond max_concurrent_fetches are seen to wait.
func TestWaitingDownloadsMetric(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewPedanticRegistry()
		s := newSetup(t, func(o *download.Options) { o.MaxFetches, o.Metrics = 2, download.NewMetrics(registry) })
		defer s.Close()
		expect := func(n string) {
			t.Helper()
			synctest.Wait()
			want := "# HELP weir_downloads_waiting Downloads that wait for a slot because the maximum number is running.\n# TYPE weir_downloads_waiting gauge\nweir_downloads_waiting " + n + "\n"
			if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "weir_downloads_waiting"); err != nil {
				t.Error(err)
			}
		}
		var first *origin
		for i := range 5 {
			o := &origin{body: random(1000), step: make(chan int)}
			r := s.reader(t, t.Context(), digest.FromBytes(o.body), o.source(ours))
			defer r.Close()
			if i == 0 {
				first = o
			}
			synctest.Wait() // so that the first one runs
		}
		expect("3")
		first.step <- 1000
		expect("2")
	})
}
