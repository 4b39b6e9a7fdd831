package app

import (
	"testing"
	"testing/synctest"
	"time"
)

// A file that is written in steps is read once, after the last one. Files that change all
// the time are read anyway.
func TestSettling(t *testing.T) {
	for name, c := range map[string]struct {
		steps int // each an eighth of the pause
		want  time.Duration
	}{
		"one step": {1, settle}, "two steps": {2, settle/8 + settle}, "forty steps": {40, 39*settle/8 + settle},
		"without end": {1000, settleAtMost - settle/8 + settle},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var files settling
				begin, step, left := time.Now(), time.NewTicker(settle/8), c.steps-1
				defer step.Stop()
				files.changed()
				for {
					select {
					case <-files.settled:
						if took := time.Since(begin); took != c.want {
							t.Errorf("settled after %s, want %s", took, c.want)
						}
						return
					case <-step.C:
						if left > 0 {
							left--
							files.changed()
						}
					}
				}
			})
		})
	}
}
