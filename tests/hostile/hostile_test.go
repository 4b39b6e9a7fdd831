package hostile

import (
	"context"
	"flag"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tokencache/redistest"
)

var (
	duration = flag.Duration("hostile.duration", 12*time.Second, "how long the attack lasts in each way, all rounds together")
	race     = flag.Bool("hostile.race", false, "attack a mirror that detects data races: it is slower and larger, so neither is compared")
	only     = flag.String("hostile.only", "", "names of attackers, separated by commas; all others stay away")
)

const (
	// rounds of attack, after each of which the mirror must be idle again.
	rounds = 3
	// mostMemory is the limit of the mirror's memory.
	mostMemory = 256 * mib
	// mostSlower is how many times as long a pull may take beside the attack.
	mostSlower = 2
	// onset is the time that an attack has before the pulls beside it count.
	onset = 500 * time.Millisecond
	// linesAMinute bounds the log beside its line for each request: it must not grow with
	// the number of attacks.
	linesAMinute = 1000
	// longestLine bounds each line. A line may hold a path, a message and a user agent.
	longestLine = 4 * kib
	// goroutineSlack and fileSlack are by how much an idle mirror may hold more after
	// an attack than before: the runtime's own, and connections to Redis.
	goroutineSlack = 10
	fileSlack      = 24
)

// stage is the cast and the result.
type stage struct {
	violations
	t         *testing.T
	limit     string // of the mirror's memory, a variable of its environment
	mirror    *harness.Weir
	alone     *harness.Weir     // another one, which is not attacked
	redis     *redistest.Server // nil: there is no Redis at hand
	honest    map[string]*registry
	attackers []*attacker

	pulled atomic.Int64 // numbers of the images that were pulled
	pulls  atomic.Int64
	most   figures
}

// While strangers attack the mirror in all ways together, honest clients get their
// content, whole and nearly as fast as before, and the mirror stays within its bounds,
// whether or not the machine limits its memory.
func TestHostile(t *testing.T) {
	testutil.Long(t, "attacks in all ways at once")
	for name, limit := range map[string]string{
		"without a memory limit": "GOMEMLIMIT=",
		// That of a control group of 222 MiB, nine tenths of it.
		"with a memory limit": "GOMEMLIMIT=200MiB",
	} {
		t.Run(name, func(t *testing.T) { attack(t, limit) })
	}
}

func attack(t *testing.T, limit string) {
	s := newStage(t, limit)
	// Content and tokens that the honest clients had before the attack.
	s.round(2*time.Second, false)
	s.settle(func(level) bool { return true })
	before, settled := s.settle(func(level) bool { return true })
	if !settled || len(s.texts) > 0 {
		t.Fatalf("the mirror does not work even while nobody attacks it: %q", s.texts)
	}

	stop := make(chan struct{})
	var observer sync.WaitGroup
	observer.Go(func() { s.observe(stop) })
	var all []*times
	for n := range rounds {
		used := s.metric("process_cpu_seconds_total")
		all = append(all, s.round(*duration/rounds, true))
		used = s.metric("process_cpu_seconds_total") - used
		after, settled := s.settle(func(l level) bool {
			return l.goroutines <= before.goroutines+goroutineSlack && l.files <= before.files+fileSlack
		})
		if !settled {
			s.violated("after round %d, the mirror holds %v, and held %v before: %s", n, after, before, s.busy())
		}
		t.Logf("after round %d, the mirror holds %v, and held %v before; it used %.1f s of the processor", n, after, before, used)
	}
	close(stop)
	observer.Wait()

	s.compare("cold", all, func(t *times) (alone, beside []time.Duration) { return t.coldAlone, t.cold })
	s.compare("warm", all, func(t *times) (alone, beside []time.Duration) { return t.warmAlone, t.warm })
	s.expectBounds()
	for _, a := range s.attackers {
		t.Logf("%s: %d deeds, and %d requests to its registry", a.name, a.sent.Load(), a.asked.Load())
		if a.sent.Load() == 0 || a.server != nil && a.asked.Load() == 0 {
			s.violated("%s did nothing: %d deeds, and %d requests to its registry", a.name, a.sent.Load(), a.asked.Load())
		}
	}
	t.Logf("%d violations", len(s.texts))
	for _, text := range s.texts[:min(30, len(s.texts))] {
		t.Error(text)
	}
}

func newStage(t *testing.T, limit string) *stage {
	s := &stage{t: t, limit: limit, honest: map[string]*registry{
		"open": startRegistry(t, "open", false), "guarded": startRegistry(t, "guarded", true),
	}}
	if _, err := exec.LookPath("redis-server"); err == nil {
		s.redis = redistest.Start(t)
	}
	for _, a := range actors(s) {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), a.name) {
			continue
		}
		s.attackers = append(s.attackers, s.enter(a))
	}
	s.start()
	return s
}

// round lets the honest clients pull for some time, beside an attack or not, and returns
// the times of their pulls.
func (s *stage) round(length time.Duration, attacked bool) *times {
	ctx, cancel := context.WithCancel(s.t.Context())
	var strangers, clients sync.WaitGroup
	if attacked {
		for _, a := range s.attackers {
			strangers.Go(func() { a.run(ctx) })
		}
		wait(ctx, onset)
	}
	pulls, end := context.WithTimeout(s.t.Context(), length)
	defer end()
	result := &times{}
	for n := range honestClients {
		block := []string{"open", "guarded"}[n%2]
		clients.Go(func() { s.pullUntil(pulls, block, result) })
	}
	clients.Wait()
	cancel()
	strangers.Wait()
	return result
}

// compare fails the test if pulls take too long beside an attack. They are compared with
// those of the same images through the mirror that is left alone, at the same time: a busy
// machine, which the strangers share, slows both. The medians of the best round decide, since
// other processes of the machine slow one round, and a weakness of the mirror slows all.
func (s *stage) compare(kind string, all []*times, of func(*times) (alone, beside []time.Duration)) {
	var quotients []float64
	for n := range rounds {
		alone, beside := of(all[n])
		if len(alone) == 0 || len(beside) == 0 {
			s.t.Logf("round %d is too short here: %d %s pulls alone, %d beside the attack", n, len(alone), kind, len(beside))
			continue
		}
		quotient := float64(median(beside)) / float64(median(alone))
		quotients = append(quotients, quotient)
		s.t.Logf("round %d: %d %s pulls of %s alone (median), %d of %s beside the attack, 9 of 10 within %s: %.2f times", n,
			len(alone), kind, median(alone).Round(time.Millisecond), len(beside), median(beside).Round(time.Millisecond),
			beside[len(beside)*9/10].Round(time.Millisecond), quotient)
	}
	if *race {
		return
	}
	if len(quotients) == 0 {
		s.violated("no round has %s pulls both alone and beside the attack", kind)
		return
	}
	if best := slices.Min(quotients); best > mostSlower {
		s.violated("%s pulls take %.2f times as long beside the attack, want %d at most", kind, best, mostSlower)
	}
}

// median sorts the durations.
func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// expectBounds notes where the mirror took too much, or died.
func (s *stage) expectBounds() {
	most := s.most
	lines := linesAMinute * (1 + int(*duration/time.Minute))
	s.t.Logf("at most %d MiB of memory, %d MiB on disk of %d, %d lines of log, the longest of %d bytes, %d pulls", most.memory/mib, most.disk/mib, maxSize/mib, most.lines, most.line, s.pulls.Load())
	if most.memory > mostMemory && !*race {
		s.violated("the mirror had %d MiB of resident memory, want %d at most", most.memory/mib, mostMemory/mib)
	}
	if most.disk > maxSize+maxSize/10 {
		s.violated("the mirror had %d KiB on disk, and max_size is %d", most.disk/kib, maxSize/kib)
	}
	if most.lines > lines {
		s.violated("the mirror wrote %d lines of log, want %d at most, such as\n%s", most.lines, lines, sample(s.mirror.Log.String()))
	}
	if most.line > longestLine {
		s.violated("a line of the log has %d bytes, want %d at most", most.line, longestLine)
	}
	select {
	case <-s.mirror.Exited:
		s.violated("the mirror has ended: %v", s.mirror.Cmd.ProcessState)
	default:
	}
}

// sample returns the kinds of messages in a log, with their numbers, the most frequent first.
func sample(log string) string {
	kinds := make(map[string]int)
	for line := range strings.Lines(log) {
		_, message, _ := strings.Cut(line, `"msg":"`)
		message, _, _ = strings.Cut(message, `"`)
		kinds[message]++
	}
	var lines []string
	for message, n := range kinds {
		lines = append(lines, fmt.Sprintf("%6d %s", n, message))
	}
	slices.Sort(lines)
	slices.Reverse(lines)
	return strings.Join(lines[:min(len(lines), 20)], "\n")
}

// busy tells what a mirror that should be idle is at.
func (s *stage) busy() string {
	var b strings.Builder
	for _, name := range []string{"weir_downloads", "weir_downloads_waiting", "weir_download_readers", "weir_jobs"} {
		fmt.Fprintf(&b, "%s %v, ", name, s.metric(name))
	}
	return strings.TrimSuffix(b.String(), ", ")
}

// tick is when the disk is looked at again.
func tick() <-chan time.Time { return time.After(250 * time.Millisecond) }
