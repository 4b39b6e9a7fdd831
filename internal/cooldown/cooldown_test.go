package cooldown_test

import (
	"testing"
	"time"

	"github.com/weirhq/weir/internal/cooldown"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// step is one call at a time after the start, and its result.
type step struct {
	at   time.Duration
	call string
	want any
}

type admission struct{ allowed, probe bool }

func run(t *testing.T, b *cooldown.Breaker, steps []step) {
	t.Helper()
	for i, s := range steps {
		now := start.Add(s.at)
		var got any
		switch s.call {
		case "allow":
			allowed, probe := b.Allow(now)
			got = admission{allowed, probe}
		case "failure":
			got, _ = b.Failure(now)
		case "success":
			got = b.Success()
		case "expire":
			got = b.Expire(now)
		case "abandon":
			b.Abandon()
		case "half open":
			got = b.HalfOpen(now)
		case "left":
			got = b.Until().Sub(now)
		default:
			t.Fatalf("step %d: no call %q", i, s.call)
		}
		if got != s.want {
			t.Errorf("step %d: %s after %v = %v, want %v", i, s.call, s.at, got, s.want)
		}
	}
}

func TestBreaker(t *testing.T) {
	const s = time.Second
	yes, no, probe := admission{true, false}, admission{}, admission{true, true}
	opts := cooldown.Options{Threshold: 3, Pause: 10 * s, MaxPause: 60 * s, MinInterval: s}
	opened := []step{{0, "failure", 0 * s}, {0, "failure", 0 * s}, {0, "failure", 10 * s}}
	for name, steps := range map[string][]step{
		"stays closed below the threshold": {
			{0, "failure", 0 * s}, {0, "failure", 0 * s}, {0, "allow", yes}, {0, "success", false}, {0, "failure", 0 * s}, {0, "allow", yes},
		},
		"opens at the threshold": {
			{0, "allow", no}, {10*s - 1, "allow", no}, {10*s - 1, "half open", false}, {10 * s, "half open", true},
		},
		"sends one probe at a time": {
			{10 * s, "allow", probe}, {10 * s, "allow", no}, {10 * s, "half open", false}, {11 * s, "success", true}, {11 * s, "allow", yes},
		},
		"doubles the pause up to its bound": {
			{10 * s, "allow", probe}, {10 * s, "failure", 20 * s},
			{30 * s, "allow", probe}, {30 * s, "failure", 40 * s},
			{70 * s, "allow", probe}, {70 * s, "failure", 60 * s},
			{130 * s, "allow", probe}, {130 * s, "failure", 60 * s},
			{190 * s, "allow", probe}, {190 * s, "success", true},
			{190 * s, "failure", 0 * s}, {190 * s, "failure", 0 * s}, {190 * s, "failure", 10 * s},
		},
		"is not held open by late failures": {
			{5 * s, "failure", 0 * s}, {10 * s, "allow", probe},
		},
		"is closed by a late success": {
			{5 * s, "success", true}, {5 * s, "allow", yes},
		},
		"probes again after an abandoned probe": {
			{10 * s, "allow", probe}, {11 * s, "abandon", nil}, {11 * s, "allow", probe},
		},
		"ends a pause early, but not often": {
			{2 * s, "expire", true}, {2 * s, "allow", probe}, {2 * s, "expire", false}, {2 * s, "failure", 20 * s},
			{2*s + s/2, "expire", false}, {3 * s, "expire", true}, {3 * s, "left", 0 * s}, {3 * s, "allow", probe},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := cooldown.New(opts)
			if name != "stays closed below the threshold" {
				run(t, &b, opened)
			}
			run(t, &b, steps)
		})
	}
}

// Without MinInterval each early end counts, whichever caller read its clock
// first.
func TestEarlyEndsWithoutInterval(t *testing.T) {
	b := cooldown.New(cooldown.Options{Pause: 5 * time.Second})
	run(t, &b, []step{
		{0, "failure", 5 * time.Second},
		{2, "expire", true},
		{1, "expire", true},
		{1, "allow", admission{true, true}},
	})
}

// A breaker without further options opens at the first failure, for the same
// time each time.
func TestDefaults(t *testing.T) {
	b := cooldown.New(cooldown.Options{Pause: 5 * time.Second})
	run(t, &b, []step{
		{0, "failure", 5 * time.Second},
		{5 * time.Second, "allow", admission{true, true}},
		{5 * time.Second, "failure", 5 * time.Second},
	})
	if b.Closed() || b.Failures() != 2 {
		t.Errorf("closed %v after %d failures", b.Closed(), b.Failures())
	}
}
