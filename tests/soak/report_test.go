package soak

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// rows are a table of names and values.
type rows struct{ strings.Builder }

func (r *rows) row(name, format string, args ...any) {
	fmt.Fprintf(r, "| %s | %s |\n", name, fmt.Sprintf(format, args...))
}

// report is the table that the soak of one mirror ends with.
func (s *soak) report(start, end level) string {
	b := s.common("the soak", clients)
	row := b.row
	row("time without a mirror or without any healthy upstream", "%s", s.weather.darkness().Round(100*time.Millisecond))
	row("SIGKILLs; slowest restart after one", "%d; %s", s.kills.Load(), s.mirror.slowest.Round(time.Millisecond))
	row("configurations applied; rejected", "%d; %d", s.mirror.logged("the changed configuration is in force"), s.mirror.logged("the changed configuration cannot be used"))
	row("slow clients disconnected", "%d", s.score.slow.Load())
	b.levels(s.observer, start, end)
	row("content stored: peak, at the end", "%s, %s", bytesOf(s.observer.stored), bytesOf(s.mirror.stored("blobs")))
	return b.String()
}

// levels adds the levels of a mirror.
func (r *rows) levels(o *observer, start, end level) {
	r.row("peak resident memory", "%s", bytesOf(int64(o.rss)))
	r.row("goroutines: idle at the start, peak, idle at the end", "%.0f, %.0f, %.0f", start.goroutines, o.goroutines, end.goroutines)
	r.row("file descriptors: idle at the start, peak, idle at the end", "%.0f, %.0f, %.0f", start.fds, o.fds, end.fds)
}

// common returns the rows of each soak.
func (s *soak) common(title string, clients int) *rows {
	b := &rows{}
	row := b.row
	all, lit, violations, _ := s.score.counts()
	fmt.Fprintf(b, "\n| %s | |\n|---|---|\n", title)
	row("duration, seed", "%s, %d", s.duration, s.seed)
	row("mirror", "%s", cmp.Or(map[bool]string{true: "built with the race detector"}[s.race], "as shipped"))
	row("clients", "%d", clients)
	row("content", "%s in %d images; cap (`max_size`): %s", bytesOf(s.content.size()), len(s.content.images), bytesOf(maxSize))
	row("pulls", "%d", s.score.pulls.Load())
	row("answers; of these, from the cache", "%d; %d (%d stale)", s.score.answers.Load(), s.score.hits.Load(), s.score.stale.Load())
	row("bytes served, bytes fetched", "%s, %s", bytesOf(s.score.served.Load()), bytesOf(s.fetched()))
	row("bodies resumed after a cut; abandoned by their client", "%d; %d", s.score.resumed.Load(), s.score.left.Load())
	row("**violations** (wrong or short bytes, 404s, other statuses, hung)", "**%d**", len(violations))
	row("wrong parts of unverified content, rejected by their client", "%d", s.score.unverified.Load())
	for _, f := range slices.Sorted(maps.Keys(all)) {
		row("allowed: "+string(f)+"; of these, with a healthy upstream", "%d; %d", all[f], lit[f])
	}
	row("pulls given up after all attempts; of these, with a healthy upstream", "%d; %d", s.score.givenUp.Load(), s.score.inLight.Load())
	row("bytes corrupted in transit", "%d", s.lies())
	row("tokens issued", "%d", s.tokens.signed.Load())
	for _, name := range slices.Sorted(maps.Keys(s.trouble.made)) {
		row("fault: "+name, "%d", s.trouble.made[name])
	}
	return b
}

func bytesOf(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// fetched is how many bytes came from the upstreams.
func (s *soak) fetched() (sum int64) {
	for _, proxy := range s.proxies {
		sum += proxy.delivered.Load()
	}
	return sum
}

// lies is how many bytes the proxies have changed.
func (s *soak) lies() (sum int64) {
	for _, proxy := range s.proxies {
		sum += proxy.corrupted.Load()
	}
	return sum
}
