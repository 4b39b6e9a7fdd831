package app

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

func TestLogFormats(t *testing.T) {
	for format, want := range map[string]string{
		"json": `"msg":"request","duration":"12.8ms","count":3}`,
		"text": `msg=request duration=12.8ms count=3`,
		"auto": `"msg":"request","duration":"12.8ms","count":3}`, // a buffer is no terminal
	} {
		var b bytes.Buffer
		newLogger(&b, format, slog.LevelInfo).Info("request", "duration", 12800123*time.Nanosecond, "count", 3)
		if got := strings.TrimSpace(b.String()); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %s, want it to end in %s", format, got, want)
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

// What the Redis client says of each failed connection is for debugging.
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
