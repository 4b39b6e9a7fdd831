package upstream

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// Each combination of the causes has one state, and all questions about the cooldown
// agree with it.
func TestCooldownStates(t *testing.T) {
	const (
		s       = time.Second
		limited = 20 * s // the end of each cause
		corrupt = corruptPause
		connect = breakerPause
	)
	start := time.Now()
	type want struct {
		state cooldownState
		left  time.Duration // of every operation, at 1 s
		early bool          // EndCooldown ends it
	}
	for _, test := range []struct {
		corrupt  bool
		connects string // closed, open, half open, probing, watched
		want
	}{
		{false, "closed", want{stateAvailable, 0, true}},
		{false, "open", want{stateUnreachable, connect - s, true}},
		{false, "half open", want{stateProbing, 0, true}},
		{false, "probing", want{stateProbing, probeTime, false}},
		{false, "watched", want{stateUnreachable, probeTime, false}},
		{true, "closed", want{stateCorrupt, corrupt - s, true}},
		{true, "open", want{stateCorrupt, corrupt - s, true}},
		{true, "half open", want{stateCorrupt, corrupt - s, true}},
		{true, "probing", want{stateCorrupt, corrupt - s, true}},
		{true, "watched", want{stateCorrupt, corrupt - s, true}},
	} {
		for _, limit := range []bool{false, true} {
			t.Run(fmt.Sprintf("limited %v, corrupt %v, %s", limit, test.corrupt, test.connects), func(t *testing.T) {
				c := newRegistryCooldown()
				if test.connects != "closed" {
					began := start
					if test.connects == "half open" || test.connects == "probing" {
						began = start.Add(-connect) // its pause is over
					}
					for range breakerThreshold {
						c.connectFailed(began, errors.New("refused"))
					}
				}
				switch test.connects {
				case "probing":
					if _, refused := c.enter(start, place{operation: ofBlobs}, false); refused != nil {
						t.Fatal(refused)
					}
				case "watched":
					c.watch(start)
				}
				if test.corrupt {
					c.deliveredCorrupt(start, corruptThreshold)
				}
				if limit {
					c.limit(place{operation: ofBlobs}, start.Add(limited))
				}
				now := start.Add(s)
				state, left := c.health(now)
				if left != test.left || state != test.state {
					t.Errorf("%v for %v, want %v for %v", state, left, test.state, test.left)
				}
				wantState, wantLeft := test.state, test.left
				if limit {
					wantState, wantLeft = stateLimited, max(wantLeft, limited-s)
				}
				if state, all := c.status(now); state != wantState || all[ofBlobs] != wantLeft || all[ofManifests] != test.left {
					t.Errorf("%v for %v, want %v for %v of blobs", state, all, wantState, wantLeft)
				}
				if limit {
					if _, refused := c.enter(now, place{operation: ofBlobs}, false); refused == nil || refused.Class != ClassRateLimited || refused.RetryAfter != limited-s {
						t.Errorf("a limited operation is refused with %v", refused)
					}
				}
				// Other operations, and the rest of a body, are not limited.
				op, rest := ofManifests, false
				if limit {
					op, rest = ofBlobs, true
				}
				_, refused := c.enter(now, place{operation: op}, rest)
				if (left == 0) != (refused == nil) {
					t.Errorf("refuses for %v more: %v", left, refused)
				}
				if refused == nil {
					return // the request may be a probe now
				}
				if refused.Class != ClassUnavailable || errors.Is(refused, ErrDigestMismatch) != (state == stateCorrupt) {
					t.Errorf("refused with %v in state %v", refused, state)
				}
				if early := c.allowEarlyProbe(now); early != test.early {
					t.Errorf("ends early: %v, want %v", early, test.early)
				}
			})
		}
	}
}

// A limit is one of an operation at a host. Many hosts push out the limits of others,
// and never those of the registry itself.
func TestLimitTable(t *testing.T) {
	table, now := newLimitTable(), time.Now()
	end := func(d time.Duration) time.Time { return now.Add(d) }
	blobs, service, storage := place{operation: ofBlobs}, place{host: "https://auth.test", operation: ofTokens}, place{host: "https://cdn.test", operation: ofBlobs}
	for _, p := range []place{blobs, service, storage} {
		if !table.extend(p, end(time.Minute)) || table.extend(p, end(time.Minute+time.Second/2)) || table.extend(p, end(time.Second)) {
			t.Errorf("%v: a limit is news once, and longer ones only", p)
		}
		if !table.extend(p, end(2*time.Minute)) || table.end(p) != end(2*time.Minute) {
			t.Errorf("%v: the limit is not extended", p)
		}
	}
	for _, p := range []place{{operation: ofManifests}, {operation: ofLists}, {host: "https://auth.test", operation: ofBlobs}, {host: "http://auth.test", operation: ofTokens}, {host: "https://other.test", operation: ofTokens}, {host: "https://cdn.test", operation: ofManifests}} {
		if got := table.end(p); !got.IsZero() {
			t.Errorf("%v is limited until %v", p, got)
		}
	}
	if table.last(ofTokens) != end(2*time.Minute) || !table.last(ofLists).IsZero() {
		t.Error("the last limits are wrong")
	}
	for i := range 10 * maxLimitedPlaces {
		table.extend(place{host: fmt.Sprint("https://", i, ".test"), operation: ofBlobs}, end(time.Hour))
	}
	if table.end(blobs) != end(2*time.Minute) || table.beside.Len() != maxLimitedPlaces {
		t.Errorf("after many hosts: %v, %d hosts", table.end(blobs), table.beside.Len())
	}
}

// Requests that no other registry can answer may find a corrupt registry at the
// same time, and each of them is sent.
func TestCorruptCooldownEndsForAllAtOnce(t *testing.T) {
	c := newRegistryCooldown()
	start := time.Now()
	c.deliveredCorrupt(start, corruptThreshold)
	for _, now := range []time.Duration{2 * time.Second, 2*time.Second - 1} { // the later clock comes first
		if !c.allowEarlyProbe(start.Add(now)) {
			t.Errorf("the cooldown does not end after %v", now)
		}
	}
	if _, refused := c.enter(start.Add(2*time.Second), place{operation: ofBlobs}, false); refused != nil {
		t.Error(refused)
	}
}

// A request that was the probe and goes on after its registry was lost again must
// not end the probe of a later request.
func TestLateProbeEndsNoOtherProbe(t *testing.T) {
	c := newRegistryCooldown()
	now := time.Now()
	fail := func(times int) {
		for range times {
			c.connectFailed(now, errors.New("refused"))
		}
	}
	fail(breakerThreshold)
	now = now.Add(breakerPause)
	leave, refused := c.enter(now, place{operation: ofBlobs}, false)
	if refused != nil {
		t.Fatal(refused)
	}
	c.connected() // and waits for its answer
	fail(breakerThreshold)
	now = now.Add(breakerPause)
	if _, refused := c.enter(now, place{operation: ofBlobs}, false); refused != nil {
		t.Fatal(refused)
	}
	leave()
	if _, refused := c.enter(now, place{operation: ofBlobs}, false); refused == nil {
		t.Error("two probes at a time")
	}
}
