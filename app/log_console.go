package app

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/lmittmann/tint"

	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/internal/units"
)

// consoleHandler writes short lines for people. A request is a sentence, and the
// attributes that only machines need are left out:
//
//	10:24:31 INF GET docker.io/library/alpine:3.20 200 cache=miss size="9.1 KiB" took=312ms client=10.1.2.3
type consoleHandler struct{ slog.Handler }

func newConsoleHandler(w io.Writer, layout string, coloured bool, level slog.Leveler) slog.Handler {
	return consoleHandler{tint.NewTextHandler(w, &tint.Options{
		Level: level, TimeFormat: layout, NoColor: !coloured, ReplaceAttr: forPeople,
	})}
}

func (h consoleHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return consoleHandler{h.Handler.WithAttrs(attrs)}
}

func (h consoleHandler) WithGroup(name string) slog.Handler {
	return consoleHandler{h.Handler.WithGroup(name)}
}

func (h consoleHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == requestMessage {
		r = requestLine(r)
	}
	return h.Handler.Handle(ctx, r)
}

// requestLine returns the record of a request as a person reads it.
func requestLine(r slog.Record) slog.Record {
	got := make(map[string]slog.Value, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		got[a.Key] = a.Value
		return true
	})
	text := func(key string) string {
		if v, ok := got[key]; ok {
			return v.String()
		}
		return ""
	}
	content := text("path")
	if repository := text("repository"); repository != "" {
		content = repository + separator(text("reference")) + text("reference")
	}
	line := slog.NewRecord(r.Time, r.Level, strings.Join([]string{text("method"), content, text("status")}, " "), r.PC)
	for _, shown := range []struct {
		key, as string
	}{{"cache", "cache"}, {"bytes", "size"}, {"duration", "took"}, {"client", "client"}, {"user", "user"}, {"upstream", "upstream"}, {"error", "error"}, {"trace_id", "trace_id"}} {
		value, ok := got[shown.key]
		if !ok || shown.key == "cache" && value.String() == "none" {
			continue
		}
		if shown.key == "bytes" {
			value = slog.StringValue(units.IEC(value.Int64()))
		}
		line.AddAttrs(slog.Attr{Key: shown.as, Value: value})
	}
	return line
}

// separator returns the character between a name and a reference.
func separator(reference string) string {
	switch {
	case reference == "":
		return ""
	case strings.Contains(reference, ":"):
		return "@"
	default:
		return ":"
	}
}

// forPeople writes attributes for a person.
func forPeople(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(shortDuration(a.Value.Duration()))
		return a
	}
	// The message is the only text that tint does not quote.
	if a.Key == slog.MessageKey {
		a.Value = slog.StringValue(printable.Line(a.Value.String(), maxLogText))
		return a
	}
	a.Value = harmless(a.Value)
	if list, ok := a.Value.Any().([]string); ok {
		a.Value = slog.StringValue(printable.Lines(strings.Join(list, ", "), maxLogText))
	}
	if a.Value.Kind() != slog.KindString {
		return a
	}
	// Where colours are on, tint takes the text \x1b for an escape sequence of the
	// program's own. It does not do so in bytes.
	if strings.Contains(a.Value.String(), `\`) {
		a.Value = slog.AnyValue([]byte(a.Value.String()))
	}
	return a
}

// shortDuration returns a duration with three digits or so.
func shortDuration(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		d = d.Round(time.Microsecond)
	case d < time.Second:
		d = d.Round(time.Millisecond)
	case d < time.Minute:
		d = d.Round(10 * time.Millisecond)
	default:
		d = d.Round(time.Second)
	}
	return d.String()
}
