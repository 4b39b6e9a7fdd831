package episode_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/internal/episode"
)

const calm = 10 * time.Second

// A letter is a second: b is a failure, g is a success, a dot is neither. The result
// has a B at the start of an episode and an E at its end.
func TestEpisode(t *testing.T) {
	for name, c := range map[string]struct{ events, want string }{
		"no trouble":                      {"gggg", ""},
		"it lasts":                        {"bbbbbbbbbbbbbbbbbbbbbbbbb", "B"},
		"it ends":                         {"bbg..........", "BE"},
		"the calm is not over":            {"bbg.......", "B"},
		"it flaps":                        {"bgbgbgbgbgbgbgbgbgbgbgbgbgbg", "B"},
		"it flaps, and ends":              {"bgbgbgbggbbg..........g", "BE"},
		"it flaps slowly":                 {"bg.......bg.......bg.......bg..........", "BE"},
		"one success, then silence":       {"bg...........................", "BE"},
		"successes do not delay it":       {"bgggggggggggg", "BE"},
		"silence is no success":           {"b............................", "B"},
		"a relapse is watched for longer": {"bg...........bg..............", "BEB"},
		"and ends, too":                   {"bg...........bg.....................", "BEBE"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := ""
				e := episode.New(calm, func() { got += "E" })
				for _, event := range c.events {
					switch event {
					case 'b':
						if e.Bad() {
							got += "B"
						}
					case 'g':
						e.Good()
					}
					time.Sleep(time.Second)
					synctest.Wait()
				}
				if got != c.want {
					t.Errorf("%s: %q, want %q", c.events, got, c.want)
				}
			})
		})
	}
}

// A disk that flaps at any rhythm for a day fills no log.
func TestEpisodeBoundsLines(t *testing.T) {
	for _, pause := range []time.Duration{time.Second, 9 * time.Second, 11 * time.Second, 61 * time.Second, 5 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			lines := 0
			e := episode.New(calm, func() { lines++ })
			for range int(24 * time.Hour / (2 * pause)) {
				if e.Bad() {
					lines++
				}
				time.Sleep(pause)
				e.Good()
				time.Sleep(pause)
				synctest.Wait()
			}
			if lines > 300 {
				t.Errorf("every %s: %d lines a day", pause, lines)
			}
		})
	}
}
