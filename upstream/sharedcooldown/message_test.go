package sharedcooldown

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/internal/seal"
	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tokencache/redistest"
)

const secret = "a secret of at least 32 characters"

func newIdle(t testing.TB, secret string) *Cooldowns {
	t.Helper()
	c := New(Options{Prefix: "p", Logger: slog.New(slog.DiscardHandler), Secret: secret})
	t.Cleanup(c.Close)
	return c
}

// sealed returns a message as an instance with a secret sends it.
func sealed(t testing.TB, secret, channel string, m message) string {
	t.Helper()
	m.Seal = seal.New(secret, "weir cooldown v1").Seal(m.fields(channel)...)
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestParse(t *testing.T) {
	now := time.Now()
	at := func(age time.Duration) int64 { return now.Add(-age).UnixMilli() }
	minute := message{Version: version, Name: "n", Left: 60_000, Sent: at(0)}
	for _, tt := range []struct {
		name, text   string
		open, closed time.Duration // the cooldown without and with a secret; 0: ignored
	}{
		{"sealed", sealed(t, secret, "p:cooldowns", minute), time.Minute, time.Minute},
		{"not sealed", `{"version":2,"name":"n","left_ms":60000}`, time.Minute, 0},
		{"sealed with another secret", sealed(t, secret+"!", "p:cooldowns", minute), time.Minute, 0},
		{"sealed for another prefix", sealed(t, secret, "q:cooldowns", minute), time.Minute, 0},
		{"another name under a seal", strings.Replace(sealed(t, secret, "p:cooldowns", minute), `"n"`, `"m"`, 1), time.Minute, 0},
		{"longer under a seal", strings.Replace(sealed(t, secret, "p:cooldowns", minute), "60000", "600000", 1), 10 * time.Minute, 0},
		{"sent once more after 80 s", sealed(t, secret, "p:cooldowns", message{Version: version, Name: "n", Left: 60_000, Sent: at(80 * time.Second)}), time.Minute, 10 * time.Second},
		{"sent once more after an hour", sealed(t, secret, "p:cooldowns", message{Version: version, Name: "n", Left: 60_000, Sent: at(time.Hour)}), time.Minute, 0},
		{"of a clock that runs ahead", sealed(t, secret, "p:cooldowns", message{Version: version, Name: "n", Left: 60_000, Sent: at(-time.Hour)}), time.Minute, time.Minute},
		{"of years", sealed(t, secret, "p:cooldowns", message{Version: version, Name: "n", Left: 1e12, Sent: at(0)}), 15 * time.Minute, 15 * time.Minute},
		{"of all time", `{"version":2,"name":"n","left_ms":9223372036854775807}`, 15 * time.Minute, 0},
		{"beyond all time", `{"version":2,"name":"n","left_ms":9223372036854775808}`, 0, 0},
		{"negative", `{"version":2,"name":"n","left_ms":-60000}`, 0, 0},
		{"over", `{"version":2,"name":"n","left_ms":0}`, 0, 0},
		{"fraction", `{"version":2,"name":"n","left_ms":1.5}`, 0, 0},
		{"text", `{"version":2,"name":"n","left_ms":"60000"}`, 0, 0},
		{"other version", `{"version":3,"name":"n","left_ms":60000}`, 0, 0},
		{"longer than any message", `{"version":2,"name":"n","left_ms":60000,"x":"` + strings.Repeat("x", maxMessage) + `"}`, 0, 0},
		{"deep", strings.Repeat("[", 1000), 0, 0},
		{"nothing", "", 0, 0},
	} {
		for secret, want := range map[string]time.Duration{"": tt.open, secret: tt.closed} {
			name, until, ok := newIdle(t, secret).parse(tt.text, now)
			if ok != (want > 0) || ok && until.Sub(now).Round(time.Second) != want || ok && tt.name != "another name under a seal" && name != "n" {
				t.Errorf("%s, secret %q: %q, %v, %v; want %v", tt.name, secret, name, until.Sub(now), ok, want)
			}
		}
	}
}

// FuzzMessage reads any message of a client of Redis. None is believed for longer
// than the bound, and none without a seal where there is a secret.
func FuzzMessage(f *testing.F) {
	f.Add(`{"version":2,"name":"n","left_ms":60000}`)
	f.Add(sealed(f, secret, "p:cooldowns", message{Version: version, Name: "n", Left: 60_000, Sent: 4e12}))
	open, closed := newIdle(f, ""), newIdle(f, secret)
	f.Fuzz(func(t *testing.T, text string) {
		now := time.Now()
		for _, c := range []*Cooldowns{open, closed} {
			_, until, ok := c.parse(text, now)
			if ok && (!until.After(now) || until.Sub(now) > maxRemaining) {
				t.Errorf("%q lasts until %v", text, until)
			}
			// JSON may write a key with capitals, with a long s or with escapes.
			if ok && c == closed && !strings.Contains(strings.ToUpper(text), "SEAL") && !strings.Contains(text, `\u`) {
				t.Errorf("%q has no seal", text)
			}
		}
	})
}

// Names that no client watches are forgotten, however many are published.
func TestUnwatchedNamesAreForgotten(t *testing.T) {
	c := newIdle(t, "")
	t.Cleanup(c.Subscribe("watched.test:443", "", "pull", func(time.Time) {}))
	for i := range 10_000 {
		if name, until, ok := c.parse(fmt.Sprintf(`{"version":2,"name":"%d","left_ms":60000}`, i), time.Now()); ok {
			c.hear(name, until)
		}
	}
	c.hear(nameOf("watched.test:443", "", "pull"), time.Now().Add(time.Minute))
	if len(c.until) != 1 || len(c.own) != 0 || len(c.unpublished) != 0 {
		t.Errorf("%d ends, %d own, %d to publish; want 1, 0, 0", len(c.until), len(c.own), len(c.unpublished))
	}
}

// Without Redis, the names of clients that are gone do not pile up: a rotated password
// makes new ones.
func TestNamesOfClosedClientsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newIdle(t, "")
		for i := range 100 {
			account := fmt.Sprint(i)
			stop := c.Subscribe("one.test:443", account, "pull", func(time.Time) {})
			c.Limit("one.test:443", account, "pull", time.Now().Add(time.Minute))
			stop()
			time.Sleep(time.Hour)
		}
		c.Limit("one.test:443", "last", "pull", time.Now().Add(time.Minute))
		if len(c.until) != 1 || len(c.own) != 1 || len(c.unpublished) != 1 || len(c.unqueried) != 0 {
			t.Errorf("%d ends, %d own, %d to publish, %d to query; want 1, 1, 1, 0", len(c.until), len(c.own), len(c.unpublished), len(c.unqueried))
		}
	})
}

// A cooldown that came from Redis is not told to Redis again: it would never end if a
// stranger had written it. Its owner tells it again.
func TestOnlyOwnCooldownsAreTold(t *testing.T) {
	server := redistest.Start(t)
	start := func() *Cooldowns {
		c := New(Options{Redis: server.Client(t), Prefix: "p", Logger: slog.New(slog.DiscardHandler), Retry: 50 * time.Millisecond, Secret: secret})
		t.Cleanup(c.Close)
		return c
	}
	owner, other := start(), start()
	told := make(chan time.Time, 100)
	t.Cleanup(other.Subscribe("one.test:443", "", "pull", func(until time.Time) { told <- until }))
	owner.Limit("one.test:443", "", "pull", time.Now().Add(time.Minute))
	<-told
	owner.Close()
	server.Restart()
	// The other instance has a cooldown of its own, which shows when it is done.
	other.Limit("two.test:443", "", "pull", time.Now().Add(time.Minute))
	client := server.Client(t)
	var keys []string
	for deadline := time.Now().Add(time.Minute); len(keys) == 0 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		keys = client.Keys(t.Context(), "*").Val()
	}
	if len(keys) != 1 || keys[0] != other.keyOf(nameOf("two.test:443", "", "pull")) {
		t.Errorf("the keys are %q", keys)
	}
	// An instance that starts later reads the sealed key, and not one that a stranger wrote.
	later, read := start(), make(chan time.Time, 100)
	client.Set(t.Context(), later.keyOf(nameOf("three.test:443", "", "pull")), "planted", time.Minute)
	t.Cleanup(later.Subscribe("three.test:443", "", "pull", func(time.Time) { t.Error("a stranger's cooldown is believed") }))
	t.Cleanup(later.Subscribe("two.test:443", "", "pull", func(until time.Time) { read <- until }))
	select {
	case <-read:
	case <-time.After(time.Minute):
		t.Error("a sealed cooldown is not read")
	}
}

// Cooldowns of names that are spelt alike are not those of each other.
func TestNamesAreDistinct(t *testing.T) {
	for _, name := range []func(a, b string) string{
		func(a, b string) string { return nameOf(a, b, "manifest") },
		func(a, b string) string { return nameOf(a, "", b) },
		func(a, b string) string { return nameOf("registry.example", a, b) },
	} {
		testutil.Distinct(t, func(a, b string) (string, bool) { return name(a, b), true })
	}
}
