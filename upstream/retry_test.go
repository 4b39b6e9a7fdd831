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
		broke, fails Class
	}
	broke := event{opened: -1, broke: ClassUnavailable}
	fails := event{opened: -1, fails: ClassUnavailable}
	lacks := event{opened: -1, fails: ClassNotFound}
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
			2, []time.Duration{12 * s, 10 * s}, []event{opened(0, 1), broke, lacks, opened(1, 0), lacks}, decision{action: recoverAll, wait: 10 * s}, 0,
		},
		"a cooldown that lasts too long": {
			1, []time.Duration{maxRecoveryWait + 1}, []event{opened(0, 1), broke, lacks}, decision{action: giveUp}, 0,
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
				if e.broke != ClassOK {
					p.broke(e.broke)
				}
				if e.fails != ClassOK {
					p.fail(e.fails)
				}
			}
			got := p.next(func(member int) time.Duration {
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

// All waits between two bytes together are bounded.
func TestRetryPolicyWaitsOnce(t *testing.T) {
	p := newRetryPolicy(1)
	p.opened(0)
	left := func(int) time.Duration { return 10 * time.Second }
	p.fail(ClassNotFound)
	if got := p.next(left); got.action != recoverAll {
		t.Fatalf("first: %+v", got)
	}
	if got := p.next(left); got != (decision{action: reopen}) {
		t.Fatalf("after the wait: %+v", got)
	}
	p.fail(ClassNotFound)
	if got := p.next(left); got.action != giveUp {
		t.Errorf("second: %+v", got)
	}
	p.progressed(1)
	p.fail(ClassNotFound)
	if got := p.next(left); got.action != recoverAll {
		t.Errorf("after a byte: %+v", got)
	}
}
