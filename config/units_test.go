package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	tests := []struct {
		text string
		want time.Duration
		form string
	}{
		{"0", 0, "0s"}, {"0s", 0, "0s"}, {"30s", 30 * time.Second, "30s"}, {"5m", 5 * time.Minute, "5m"},
		{"12h", 12 * time.Hour, "12h"}, {"7d", 7 * day, "7d"}, {"1d12h", 36 * time.Hour, "1d12h"},
		{"24h", day, "1d"}, {"90s", 90 * time.Second, "1m30s"}, {"1h30s", time.Hour + 30*time.Second, "1h0m30s"},
		{"1d10m", day + 10*time.Minute, "1d10m"}, {"1.5h", 90 * time.Minute, "1h30m"}, {"1d1ns", day + 1, "1d1ns"},
		{"106751d", 106751 * day, "106751d"},
	}
	for _, tt := range tests {
		var d, again Duration
		if err := d.UnmarshalText([]byte(tt.text)); err != nil || d.Std() != tt.want {
			t.Errorf("%s = %v, %v", tt.text, d.Std(), err)
		}
		if d.String() != tt.form {
			t.Errorf("%s prints as %s, want %s", tt.text, d, tt.form)
		}
		if err := again.UnmarshalText([]byte(d.String())); err != nil || again != d {
			t.Errorf("%s comes back as %v, %v", d, again, err)
		}
	}
	for text, want := range map[string]string{
		"": "not a duration", "7": "not a duration", "d": "not a duration", "1d2d": "not a duration", "1.5d": "not a duration",
		"12h1d": "not a duration", "-1d": "not a duration", "1 d": "not a duration", "3000000h": "not a duration",
		"-5s": "is negative", "1d-5s": "is negative",
		"106752d": "too long", "106751d24h": "too long", "99999999999999999999d": "too long",
	} {
		d := Duration(42)
		if err := d.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || d != 42 {
			t.Errorf("%q: %v, %v", text, err, d)
		}
	}
}

func TestSize(t *testing.T) {
	tests := []struct {
		text string
		want Size
		form string
	}{
		{"0", 0, "0B"}, {"5MiB", 5 << 20, "5MiB"}, {"200GiB", 200 << 30, "200GiB"}, {"5 MiB", 5 << 20, "5MiB"},
		{"1500", 1500, "1500B"}, {"1kB", 1000, "1000B"}, {"1024B", 1024, "1KiB"}, {"1.5GiB", 3 << 29, "1536MiB"},
		{"7EiB", 7 << 60, "7EiB"}, {"9007199254740993", 1<<53 + 1, "9007199254740993B"},
		{"9223372036854775807", math.MaxInt64, "9223372036854775807B"},
		{"9223372036854774784", (1<<53 - 1) << 10, "9007199254740991KiB"},
	}
	for _, tt := range tests {
		var s, again Size
		if err := s.UnmarshalText([]byte(tt.text)); err != nil || s != tt.want {
			t.Errorf("%s = %d, %v", tt.text, s, err)
		}
		if s.String() != tt.form {
			t.Errorf("%s prints as %s, want %s", tt.text, s, tt.form)
		}
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%s comes back as %v, %v", s, again, err)
		}
	}
	for text, want := range map[string]string{
		"": "not a size", "MiB": "not a size", "5 apples": "not a size", "30EB": "not a size",
		"-5MiB": "is negative", "-5": "is negative",
		"8EiB": "too large", "9223372036854775808": "too large",
	} {
		s := Size(42)
		if err := s.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || s != 42 {
			t.Errorf("%q: %v, %v", text, err, s)
		}
	}
}

func TestSecret(t *testing.T) {
	const plain = "tiger"
	holder := struct{ S, Empty Secret }{S: plain}
	var printed strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10s"} {
		fmt.Fprintf(&printed, verb+verb+verb+"\n", holder.S, holder, &holder)
	}
	fmt.Fprintln(&printed, holder.S, []Secret{plain}, map[string]Secret{"k": plain})
	document, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	printed.Write(document)
	for _, handler := range []slog.Handler{slog.NewTextHandler(&printed, nil), slog.NewJSONHandler(&printed, nil)} {
		slog.New(handler).Info("m", "secret", holder.S, "holder", holder)
	}
	for _, leak := range []string{plain, fmt.Sprintf("%x", plain), fmt.Sprintf("%X", plain)} {
		if strings.Contains(printed.String(), leak) {
			t.Errorf("leaks %s:\n%s", leak, printed.String())
		}
	}
	if holder.S.Reveal() != plain || holder.Empty.String() != "" {
		t.Error("Reveal must give the secret, String must show that there is none")
	}
	if got := fmt.Sprintf("%q", holder.S); got != `"[redacted]"` {
		t.Errorf("%%q prints %s", got)
	}
}
