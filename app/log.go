package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/weirhq/weir/internal/printable"
)

// maxLogText bounds a text in the log. A configuration with many mistakes, or the
// stack of a panic, has some KiB.
const maxLogText = 16 << 10

// newLogger returns a logger in a format of the configuration: "text" for people,
// "json" for machines, or "auto" for text on a terminal and json elsewhere.
func newLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	if logsJSON(w, format) {
		return slog.New(newFloodHandler(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: forMachines})))
	}
	// A terminal shows the log of a moment; a file needs the day.
	layout := time.DateTime
	if isTerminal(w) {
		layout = time.TimeOnly
	}
	return slog.New(newFloodHandler(newConsoleHandler(w, layout, showsColours(w), level)))
}

// logsJSON reports whether the log on w is for machines.
func logsJSON(w io.Writer, format string) bool {
	return format == "json" || format == "auto" && !isTerminal(w)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// showsColours reports whether w shows colours, and the user wants them
// (https://no-color.org).
func showsColours(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// forMachines writes attributes for programs that read the log. A duration is a number
// of seconds, and its key says so: "duration_s".
func forMachines(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		seconds := a.Value.Duration().Seconds()
		return slog.Float64(a.Key+"_s", math.Round(seconds*1e6)/1e6) // microseconds
	}
	a.Value = harmless(a.Value)
	return a
}

// harmless returns a value whose texts are bounded and change nothing on a terminal:
// names, paths and error messages may come from clients and upstreams. Errors get
// advice for the operator.
func harmless(v slog.Value) slog.Value {
	clean := func(text string) slog.Value { return slog.StringValue(printable.Lines(text, maxLogText)) }
	switch v.Kind() {
	case slog.KindString:
		return clean(v.String())
	case slog.KindAny:
		switch value := v.Any().(type) {
		case slog.Level:
			return v
		case error:
			return clean(advised(value))
		case []string:
			list := make([]string, len(value))
			for i, text := range value {
				list[i] = printable.Lines(text, maxLogText)
			}
			return slog.AnyValue(list)
		default: // a digest, the value of a panic
			return clean(fmt.Sprint(value))
		}
	default: // numbers, times and groups; the parts of a group come one by one
		return v
	}
}

// logLevel returns the level of a validated configuration's name for it.
func logLevel(name string) slog.Level {
	var level slog.Level
	_ = level.UnmarshalText([]byte(name)) // validated; info otherwise
	return level
}

// redisLog writes the lines of the Redis client to the log, for debugging: the
// client reports each failed connection, and the token cache says once that Redis
// is away.
type redisLog struct{ *slog.Logger }

func (l redisLog) Printf(ctx context.Context, format string, args ...any) {
	l.DebugContext(ctx, "redis", "message", fmt.Sprintf(format, args...))
}
