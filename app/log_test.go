package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/creack/pty"
	"github.com/opencontainers/go-digest"
)

func TestLogFormats(t *testing.T) {
	for format, want := range map[string]string{
		"json": `"msg":"shutting down","limit_s":12.8001,"count":3}`,
		"text": ` INF shutting down limit=12.8s count=3`,
		"auto": `"msg":"shutting down","limit_s":12.8001,"count":3}`, // a buffer is no terminal
	} {
		var b bytes.Buffer
		newLogger(&b, format, slog.LevelInfo).Info("shutting down", "limit", 12800100123*time.Nanosecond, "count", 3)
		if got := strings.TrimSpace(b.String()); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %s, want it to end in %s", format, got, want)
		}
	}
}

// Durations are numbers of seconds for machines, and have few digits for people.
func TestLogDurations(t *testing.T) {
	for took, want := range map[time.Duration]struct{ json, text string }{
		0:                        {"0", "0s"},
		1499 * time.Nanosecond:   {"0.000001", "1µs"},
		12345678:                 {"0.012346", "12ms"},
		1234567890:               {"1.234568", "1.23s"},
		90*time.Minute + 1234567: {"5400.001235", "1h30m0s"},
		-time.Second:             {"-1", "-1s"},
	} {
		var asJSON, text bytes.Buffer
		newLogger(&asJSON, "json", slog.LevelInfo).Info("x", slog.Group("g", "wait", took), "duration", took)
		newLogger(&text, "text", slog.LevelInfo).Info("x", "duration", took)
		if !strings.Contains(asJSON.String(), `"g":{"wait_s":`+want.json+`},"duration_s":`+want.json+"}") || !strings.HasSuffix(text.String(), " duration="+want.text+"\n") {
			t.Errorf("%s: %s%s", took, asJSON.String(), text.String())
		}
	}
}

// A request is a sentence for people.
func TestLogOfRequests(t *testing.T) {
	dgst := digest.FromString("x").String()
	common := []any{"client", "10.1.2.3", "user_agent", "docker/27", "operation", "manifest"}
	for want, attrs := range map[string][]any{
		`GET docker.io/library/alpine:3.20 200 cache=miss size="9.0 KiB" took=312ms client=10.1.2.3 upstream=registry-1.docker.io`: {
			"method", "GET", "repository", "docker.io/library/alpine", "reference", "3.20", "status", 200, "bytes", int64(9216),
			"duration", 312*time.Millisecond + 4567, "cache", "miss", "upstream", "registry-1.docker.io"},
		`HEAD ghcr.io/a@` + dgst + ` 200 cache=hit size="0 B" took=41µs client=10.1.2.3`: {
			"method", "HEAD", "repository", "ghcr.io/a", "reference", dgst, "status", 200, "bytes", int64(0), "duration", 41 * time.Microsecond, "cache", "hit"},
		`GET ghcr.io/a 404 took=1ms client=10.1.2.3 error="no such tag"`: {
			"method", "GET", "repository", "ghcr.io/a", "reference", "", "status", 404, "duration", time.Millisecond, "cache", "none", "error", errors.New("no such tag")},
		`GET /v2/ 200 client=10.1.2.3`: {"method", "GET", "path", "/v2/", "status", 200},
	} {
		var b bytes.Buffer
		newLogger(&b, "text", slog.LevelInfo).Info("request", append(attrs, common...)...)
		if !strings.HasSuffix(b.String(), " INF "+want+"\n") {
			t.Errorf("got %swant %s", b.String(), want)
		}
	}
}

// terminal returns a terminal, and the text that is written to it.
func terminal(t *testing.T) (w *os.File, read func() string) {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	return slave, func() string {
		slave.Close()
		text, _ := io.ReadAll(master) // fails with EIO at the end
		return string(text)
	}
}

// On a terminal the log is coloured, unless the user or the terminal wants none.
func TestLogOnATerminal(t *testing.T) {
	for name, c := range map[string]struct {
		format string
		env    map[string]string
		want   string
	}{
		"auto":     {"auto", nil, "\x1b[2m__:__:__\x1b[0m \x1b[93mWRN\x1b[0m careful \x1b[2mupstream=\x1b[0mghcr.io\r\n"},
		"text":     {"text", nil, "\x1b[2m__:__:__\x1b[0m \x1b[93mWRN\x1b[0m careful \x1b[2mupstream=\x1b[0mghcr.io\r\n"},
		"json":     {"json", nil, `{"time":"","level":"WARN","msg":"careful","upstream":"ghcr.io"}` + "\r\n"},
		"NO_COLOR": {"auto", map[string]string{"NO_COLOR": "1"}, "__:__:__ WRN careful upstream=ghcr.io\r\n"},
		"dumb":     {"auto", map[string]string{"TERM": "dumb"}, "__:__:__ WRN careful upstream=ghcr.io\r\n"},
		// https://no-color.org: an empty variable does not count.
		"NO_COLOR is empty": {"auto", map[string]string{"NO_COLOR": ""}, "\x1b[2m__:__:__\x1b[0m \x1b[93mWRN\x1b[0m careful \x1b[2mupstream=\x1b[0mghcr.io\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("NO_COLOR", "")
			t.Setenv("TERM", "xterm-256color")
			for key, value := range c.env {
				t.Setenv(key, value)
			}
			w, read := terminal(t)
			newLogger(w, c.format, slog.LevelInfo).Warn("careful", "upstream", "ghcr.io")
			got := regexp.MustCompile(`\d\d:\d\d:\d\d(\.\d+)?`).ReplaceAllString(read(), "__:__:__")
			got = regexp.MustCompile(`"time":"[^"]*"`).ReplaceAllString(got, `"time":""`)
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// No text of a client or an upstream controls a terminal or hides a part of a line,
// in any format, coloured or not.
func TestLogIsHarmless(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	for _, text := range []string{
		"\x1b[2J\x1b]0;title\a", "\u009b2J", `\x1b[31m red`, `\\x1b[31m red`, `"\x1b[31m`, "app\u202egnp.exe", "\u2066x\u2069", "zero\u200bwidth", "\ufeff",
		"a\rb", "a\nlevel=ERROR b", "\x00", "\xff\xfe", "tag\U000e0041", "\u2028", strings.Repeat("\u202e", 1<<20), strings.Repeat("x", 1<<20),
	} {
		for name, write := range map[string]func(*slog.Logger){
			"request": func(l *slog.Logger) { l.Info("request", "path", text, "error", errors.New(text)) },
			"other":   func(l *slog.Logger) { l.Info("hello", "path", text) },
			"error":   func(l *slog.Logger) { l.Warn("it fails", "error", errors.New(text)) },
			"digest":  func(l *slog.Logger) { l.Warn("it fails", "digest", digest.Digest(text)) },
			"struct":  func(l *slog.Logger) { l.Warn("it fails", "panic", struct{ Text string }{text}) },
			"list":    func(l *slog.Logger) { l.Warn("some changes", "keys", []string{text}) },
			"message": func(l *slog.Logger) { l.Warn(text) },
			"with":    func(l *slog.Logger) { l.With("path", text).Info("hello") },
			"group":   func(l *slog.Logger) { l.WithGroup("g").Info("hello", "path", text) },
			"members": func(l *slog.Logger) { l.Info("hello", slog.Group("g", "path", text)) },
		} {
			for format, handler := range map[string]func(io.Writer) slog.Handler{
				"json":     func(w io.Writer) slog.Handler { return newLogger(w, "json", slog.LevelInfo).Handler() },
				"text":     func(w io.Writer) slog.Handler { return newLogger(w, "text", slog.LevelInfo).Handler() },
				"coloured": func(w io.Writer) slog.Handler { return newConsoleHandler(w, time.TimeOnly, true, slog.LevelInfo) },
			} {
				var b bytes.Buffer
				write(slog.New(handler(&b)))
				got := regexp.MustCompile(`\x1b\[(0|2|22|9[123])m`).ReplaceAllString(b.String(), "") // tint's own
				line, ended := strings.CutSuffix(got, "\n")
				if !ended || !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
					t.Errorf("%.50q as %s in %s: %.300q", text, name, format, got)
				}
				if len(got) > 2*(2*maxLogText+200) {
					t.Errorf("%.50q as %s in %s: %d bytes", text, name, format, len(got))
				}
				if format == "json" && !json.Valid([]byte(got)) {
					t.Errorf("%.50q as %s is no JSON: %.300q", text, name, got)
				}
			}
		}
	}
}

// A file is no terminal either.
func TestLogToAFile(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	newLogger(file, "auto", slog.LevelInfo).Info("hello")
	if content, err := os.ReadFile(file.Name()); err != nil || !bytes.HasPrefix(content, []byte("{")) {
		t.Errorf("%s, %v", content, err)
	}
}

func TestLogLevels(t *testing.T) {
	for name, want := range map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	} {
		if got := logLevel(name); got != want {
			t.Errorf("%s is %s", name, got)
		}
	}
}

// The lines of the Redis client about each failed connection are for debugging.
func TestRedisLog(t *testing.T) {
	var b bytes.Buffer
	level := new(slog.LevelVar)
	log := redisLog{newLogger(&b, "text", level)}
	log.Printf(t.Context(), "dial %s", "tcp")
	if b.Len() > 0 {
		t.Errorf("logged %s", &b)
	}
	level.Set(slog.LevelDebug)
	log.Printf(t.Context(), "dial %s", "tcp")
	if !strings.Contains(b.String(), `message="dial tcp"`) {
		t.Errorf("logged %q", &b)
	}
}
