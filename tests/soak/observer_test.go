package soak

import (
	"context"
	"time"

	"github.com/weirhq/weir/tests/harness"
)

// level is the number of goroutines and file descriptors of an idle mirror.
type level struct{ goroutines, fds float64 }

// observer watches the mirror's process.
type observer struct {
	mirror     *mirror
	samples    int
	rss        float64 // bytes; the highest
	goroutines float64 // the highest
	fds        float64 // the highest
	stored     int64   // bytes of content; the highest
	downloads  float64 // the highest
	unready    int     // samples in a row in which the mirror was not ready
	longest    int     // the highest
}

// run takes a sample each second. It does so while the mirror is up.
func (o *observer) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		sample, err := o.mirror.metrics(ctx)
		if err != nil {
			o.unready = 0
			continue // it is being killed
		}
		if o.unready++; o.mirror.ready() {
			o.unready = 0
		}
		o.longest = max(o.longest, o.unready)
		o.samples++
		o.rss = max(o.rss, sample["process_resident_memory_bytes"])
		o.goroutines = max(o.goroutines, sample["go_goroutines"])
		o.fds = max(o.fds, sample["process_open_fds"])
		o.stored = max(o.stored, o.mirror.stored("blobs"))
		o.downloads = max(o.downloads, sample["weir_downloads"])
	}
}

// settle waits until a mirror has nothing under way and holds accepts its
// level, and returns that level. If this never happens, it returns the last
// level. The other ends of its connections hang up: a connection that the
// mirror keeps open for the next request is no leak.
func (s *soak) settle(m *mirror, holds func(level) bool) (level, bool) {
	var last level
	settled := harness.Within(patience, func() bool {
		now, err := m.metrics(s.t.Context())
		if err != nil {
			return false
		}
		last = level{now["go_goroutines"], now["process_open_fds"]}
		idle := now["weir_downloads"] == 0 && now["weir_download_readers"] == 0 && now["weir_jobs"] == 0 && now["weir_tier_uploads_waiting"] == 0
		if idle {
			for _, hangUp := range s.hangUps {
				hangUp()
			}
		}
		return idle && holds(last)
	})
	return last, settled
}
