package tokencache_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tokencache"
)

func TestTokenUsable(t *testing.T) {
	issued := time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		name   string
		token  tokencache.Token
		last   time.Duration // after issued, up to which the token is usable
		usable bool
	}{
		{"a tenth of 60 s", tokencache.Token{"v", issued, issued.Add(time.Minute)}, 54 * time.Second, true},
		{"a tenth of 300 s is 30 s", tokencache.Token{"v", issued, issued.Add(5 * time.Minute)}, 270 * time.Second, true},
		{"30 s of an hour", tokencache.Token{"v", issued, issued.Add(time.Hour)}, time.Hour - 30*time.Second, true},
		{"issued unknown", tokencache.Token{"v", time.Time{}, issued.Add(time.Hour)}, time.Hour - 30*time.Second, true},
		{"issued after the end", tokencache.Token{"v", issued.Add(time.Hour), issued.Add(time.Minute)}, time.Minute, false},
		{"issued a moment ahead", tokencache.Token{"v", issued.Add(30*time.Second + time.Minute), issued.Add(10 * time.Minute)}, 10*time.Minute - 30*time.Second, true},
		{"issued in the future", tokencache.Token{"v", issued.AddDate(3, 0, 0), issued.AddDate(3, 0, 1)}, time.Minute, false},
		{"no value", tokencache.Token{"", issued, issued.Add(time.Hour)}, time.Second, false},
		{"zero", tokencache.Token{}, time.Second, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.token.Usable(issued.Add(test.last - 1)); got != test.usable {
				t.Errorf("Usable just before %v = %v, want %v", test.last, got, test.usable)
			}
			if test.token.Usable(issued.Add(test.last)) {
				t.Errorf("Usable at %v", test.last)
			}
		})
	}
}

func TestTokenRedactsItself(t *testing.T) {
	const secret = "s3cr3t"
	token := newToken(secret)
	type holder struct{ Token tokencache.Token }

	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("text", "token", token, "holder", holder{token})
	slog.New(slog.NewJSONHandler(&log, nil)).Info("json", "token", token, "holder", holder{token})
	marshalled, err := json.Marshal(map[string]any{"token": token, "pointer": &token})
	if err != nil {
		t.Fatal(err)
	}
	printed := map[string]string{"log": log.String(), "json": string(marshalled), "String": token.String(), "GoString": token.GoString()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%t"} {
		printed[verb] = fmt.Sprintf(verb+verb+verb, token, &token, holder{token})
	}
	hexadecimal := fmt.Sprintf("%x", secret)
	for how, text := range printed {
		if strings.Contains(text, secret) || strings.Contains(text, hexadecimal) {
			t.Errorf("%s shows the token: %s", how, text)
		}
		if !strings.Contains(text, "redacted") {
			t.Errorf("%s does not say that something is left out: %s", how, text)
		}
	}
}

func TestFingerprint(t *testing.T) {
	if got := tokencache.Fingerprint("", ""); got != "" {
		t.Errorf("anonymous: %q, want the empty string", got)
	}
	// Instances of other versions share the Redis: the value must not change.
	const want = "46832ea8253b67b09dc89729c04dd9d9"
	if got := tokencache.Fingerprint("alice", "correct horse"); got != want {
		t.Errorf("Fingerprint = %q, want %q", got, want)
	}
	testutil.Distinct(t, func(a, b string) (string, bool) { return tokencache.Fingerprint(a, b), true })
	testutil.Distinct(t, func(a, b string) (string, bool) {
		if b == "" { // those of a helper are none of a user
			return tokencache.Fingerprint(a, "c", ""), true
		}
		return tokencache.Fingerprint(a, b), true
	})
	seen := map[string]string{}
	for _, credential := range [][2]string{
		{"alice", "secret"}, {"alice", "Secret"}, {"alicesecret", ""}, {"", "alicesecret"}, {"alices", "ecret"},
	} {
		got := tokencache.Fingerprint(credential[0], credential[1])
		if other, ok := seen[got]; ok {
			t.Errorf("%q and %q have one fingerprint", credential, other)
		}
		seen[got] = fmt.Sprint(credential)
		if strings.Contains(got, "alice") || strings.Contains(strings.ToLower(got), "secret") {
			t.Errorf("Fingerprint(%q) = %q contains the credential", credential, got)
		}
	}
}
