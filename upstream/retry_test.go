package upstream

import (
	"testing"
	"time"
)

func TestRetryPolicy(t *testing.T) {
	const s = time.Second
	type event struct {
		opened       int // index of a member; -1: none
		progressed   int // bytes
		broke, fails failure
	}
	broke := event{opened: -1, broke: failure{class: ClassUnavailable}}
	fails := event{opened: -1, fails: failure{class: ClassUnavailable}}
	lacks := event{opened: -1, fails: failure{class: ClassNotFound}}
	away := event{opened: -1, fails: failure{class: ClassUnavailable, away: true}}
	asks := func(pause time.Duration) event {
		return event{opened: -1, fails: failure{class: ClassUnavailable, retryAfter: pause}}
	}
	opened := func(member, progressed int) event { return event{opened: member, progressed: progressed} }
	for name, test := range map[string]struct {
		members  int
		cooldown []time.Duration
		events   []event
		want     decision
		member   int
	}{
		"the same member at once after a first break": {
			2, nil, []event{opened(0, minProgress), broke}, decision{action: reopen}, 0,
		},
		"the next member after a second failure": {
			2, nil, []event{opened(0, minProgress), broke, fails}, decision{action: reopen}, 1,
		},
		"a growing pause if there is no other member": {
			1, nil, []event{opened(0, minProgress), broke, fails}, decision{action: reopen, step: 2}, 0,
		},
		"the next member if the blob is gone": {
			2, nil, []event{opened(0, minProgress), broke, lacks}, decision{action: reopen}, 1,
		},
		"the member that failed least": {
			3, nil, []event{opened(0, minProgress), broke, fails, opened(1, 0), broke, broke, opened(0, 0)}, decision{action: reopen, step: 1}, 2,
		},
		"progress forgives": {
			1, nil, []event{opened(0, minProgress), broke, fails, opened(0, minProgress), broke}, decision{action: reopen}, 0,
		},
		"two trickles in a row": {
			1, nil, []event{opened(0, 1), broke, opened(0, 1), broke}, decision{action: reopen, step: 1}, 0,
		},
		"trickles without end": {
			1, nil, []event{opened(0, 1), broke, opened(0, 1), broke, opened(0, 1), broke, opened(0, 1), broke, opened(0, 1), broke, opened(0, 1), broke},
			decision{action: reopen, step: triesPerMember}, 0,
		},
		"nothing left to try": {
			1, nil, []event{opened(0, 1), broke, fails, fails}, decision{action: giveUp}, 0,
		},
		"the first cooldown that ends": {
			2, []time.Duration{12 * s, 10 * s}, []event{opened(0, 1), broke, fails, fails, opened(1, 0), fails, fails, fails}, decision{action: recoverAll, wait: 10 * s}, 0,
		},
		"a cooldown that lasts too long": {
			1, []time.Duration{maxRecoveryTime + 1}, []event{opened(0, 1), broke, fails, fails}, decision{action: giveUp}, 0,
		},
		"no wait for a member that lacks it": {
			2, []time.Duration{s, 0}, []event{opened(0, 1), broke, lacks, opened(1, 0), fails, fails, fails}, decision{action: giveUp}, 0,
		},
		"failed connects without a cooldown": {
			1, nil, []event{opened(0, 1), broke, away, away}, decision{action: recoverAll, wait: recoveryPause}, 0,
		},
		"one member away and the other broken": {
			2, nil, []event{opened(0, 1), broke, away, opened(1, 0), fails, fails, fails, opened(0, 0), away}, decision{action: recoverAll, wait: recoveryPause}, 1,
		},
		"a short pause that the member asks for": {
			1, nil, []event{opened(0, minProgress), broke, asks(7 * s)}, decision{action: reopen, wait: 7 * s}, 0,
		},
		"a pause that is too long": {
			1, nil, []event{opened(0, minProgress), broke, asks(time.Minute)}, decision{action: reopen, step: 2}, 0,
		},
		"no pause if another member is left": {
			2, nil, []event{opened(0, minProgress), broke, asks(7 * s)}, decision{action: reopen, step: 0}, 1,
		},
		"nothing left but a pause": {
			1, nil, []event{opened(0, minProgress), broke, asks(s), asks(s)}, decision{action: giveUp}, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newRetryPolicy(test.members)
			for _, e := range test.events {
				if e.opened >= 0 {
					p.opened(e.opened)
				}
				if e.progressed > 0 {
					p.progressed(e.progressed)
				}
				if e.broke.class != ClassOK {
					p.broke(e.broke)
				}
				if e.fails.class != ClassOK {
					p.fail(e.fails)
				}
			}
			got := p.next(time.Now(), func(member int) time.Duration {
				if test.cooldown == nil {
					return 0
				}
				return test.cooldown[member]
			})
			if got != test.want || p.current != test.member {
				t.Errorf("%+v on member %d, want %+v on member %d", got, p.current, test.want, test.member)
			}
		})
	}
}

// All waits between two bytes together are bounded, and each is followed by one try of
// each member that is back.
func TestRetryPolicyRecovers(t *testing.T) {
	p, now, cooldown := newRetryPolicy(1), time.Now(), 10*time.Second
	next := func(want action) {
		t.Helper()
		got := p.next(now, func(int) time.Duration { return cooldown })
		if got.action != want {
			t.Fatalf("%+v after %v, want %v", got, now.Sub(p.recovering), want)
		}
		now = now.Add(got.wait)
	}
	away := failure{class: ClassUnavailable, away: true}
	lose := func() {
		p.broke(failure{class: ClassUnavailable})
		p.fail(away)
		p.fail(away)
	}
	p.opened(0)
	lose()
	next(recoverAll)
	cooldown = 0
	next(reopen)
	p.fail(away)
	for range 5 { // seconds are left
		next(recoverAll)
		next(reopen)
		p.fail(away)
	}
	next(giveUp)

	p.progressed(1)
	lose()
	cooldown = time.Second
	for range 15 {
		next(recoverAll) // and no try during the cooldown
	}
	next(giveUp)
}
