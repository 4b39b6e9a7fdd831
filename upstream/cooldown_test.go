package upstream

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// Each combination of the three causes has one state, and all questions about
// the cooldown agree with it.
func TestCooldownStates(t *testing.T) {
	const (
		s       = time.Second
		limited = 20 * s // the end of each cause
		corrupt = corruptPause
		connect = breakerPause
	)
	start := time.Now()
	type want struct {
		state    cooldownState
		left     time.Duration // at 1 s
		admitted bool
		early    bool // EndCooldown ends it
	}
	for _, test := range []struct {
		limited, corrupt bool
		connects         string // closed, open, half open, probing
		want
	}{
		{false, false, "closed", want{stateAvailable, 0, true, true}},
		{false, false, "open", want{stateUnreachable, connect - s, false, true}},
		{false, false, "half open", want{stateProbing, 0, true, true}},
		{false, false, "probing", want{stateProbing, probeTime, false, false}},
		{false, true, "closed", want{stateCorrupt, corrupt - s, false, true}},
		{false, true, "open", want{stateCorrupt, corrupt - s, false, true}},
		{false, true, "half open", want{stateCorrupt, corrupt - s, false, true}},
		{false, true, "probing", want{stateCorrupt, corrupt - s, false, true}},
		{true, false, "closed", want{stateLimited, limited - s, false, false}},
		{true, false, "open", want{stateLimited, limited - s, false, false}},
		{true, false, "half open", want{stateLimited, limited - s, false, false}},
		{true, false, "probing", want{stateLimited, limited - s, false, false}},
		{true, true, "closed", want{stateLimited, corrupt - s, false, false}},
		{true, true, "open", want{stateLimited, corrupt - s, false, false}},
		{true, true, "half open", want{stateLimited, corrupt - s, false, false}},
		{true, true, "probing", want{stateLimited, corrupt - s, false, false}},
	} {
		t.Run(fmt.Sprintf("limited %v, corrupt %v, %s", test.limited, test.corrupt, test.connects), func(t *testing.T) {
			c := newRegistryCooldown()
			if test.connects != "closed" {
				began := start
				if test.connects != "open" {
					began = start.Add(-connect) // its pause is over
				}
				for range breakerThreshold {
					c.connectFailed(began, errors.New("refused"))
				}
			}
			if test.connects == "probing" {
				if _, refused := c.enter(start); refused != nil {
					t.Fatal(refused)
				}
			}
			if test.corrupt {
				c.deliveredCorrupt(start, corruptThreshold)
			}
			if test.limited {
				c.limit(start.Add(limited))
			}
			now := start.Add(s)
			state, left := c.status(now)
			_, refused := c.enter(now)
			if got := (want{state, left, refused == nil, test.early}); got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
			if (left == 0) != (refused == nil) {
				t.Errorf("refuses for %v more: %v", left, refused)
			}
			if refused == nil {
				return // the request may be a probe now
			}
			if class := refused.Class; (class == ClassRateLimited) != (state == stateLimited) {
				t.Errorf("refused with %v in state %v", class, state)
			}
			if errors.Is(refused, ErrDigestMismatch) != (state == stateCorrupt) {
				t.Errorf("refused with %v in state %v", refused, state)
			}
			if early := c.allowEarlyProbe(now); early != test.early {
				t.Errorf("ends early: %v, want %v", early, test.early)
			}
		})
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
	if _, refused := c.enter(start.Add(2 * time.Second)); refused != nil {
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
	leave, refused := c.enter(now)
	if refused != nil {
		t.Fatal(refused)
	}
	c.connected() // and waits for its answer
	fail(breakerThreshold)
	now = now.Add(breakerPause)
	if _, refused := c.enter(now); refused != nil {
		t.Fatal(refused)
	}
	leave()
	if _, refused := c.enter(now); refused == nil {
		t.Error("two probes at a time")
	}
}
