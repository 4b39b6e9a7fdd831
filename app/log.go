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

// requestMessage is the message of the line of a request.
const requestMessage = "request"

// newLogger returns a logger in a format of the configuration: "text" for people,
// "json" for machines, or "auto" for text on a terminal and json elsewhere.
func newLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	return slog.New(newFloodHandler(newLineHandler(w, w, format, level)))
}

// newBatchedLogger is newLogger for a busy mirror. The batch has to be closed.
func newBatchedLogger(w io.Writer, format string, level slog.Leveler) (*slog.Logger, *batch) {
	lines := newBatch(w)
	return slog.New(newFloodHandler(batchHandler{newLineHandler(lines, w, format, level), lines})), lines
}

// newLineHandler returns a handler that writes lines to w, in a form for the file that they end in.
func newLineHandler(w, file io.Writer, format string, level slog.Leveler) slog.Handler {
	if logsJSON(file, format) {
		return machineHandler{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})}
	}
	// A terminal shows the log of a moment; a file needs the day.
	layout := time.DateTime
	if isTerminal(file) {
		layout = time.TimeOnly
	}
	return newConsoleHandler(w, layout, showsColours(file), level)
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

// machineHandler writes attributes for programs that read the log. It changes them before the
// JSON handler sees them: with a ReplaceAttr that one takes a slow way, in which the level
// alone costs more than all else.
type machineHandler struct{ slog.Handler }

func (h machineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return machineHandler{h.Handler.WithAttrs(allForMachines(attrs))}
}

func (h machineHandler) WithGroup(name string) slog.Handler {
	return machineHandler{h.Handler.WithGroup(name)}
}

func (h machineHandler) Handle(ctx context.Context, r slog.Record) error {
	line := slog.NewRecord(r.Time, r.Level, printable.Lines(r.Message, maxLogText), r.PC)
	var room [16]slog.Attr // enough for a request
	attrs := room[:0]
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, forMachines(a))
		return true
	})
	line.AddAttrs(attrs...)
	return h.Handler.Handle(ctx, line)
}

// forMachines returns an attribute as programs read it. A duration is a number of seconds,
// and its key says so: "duration_s".
func forMachines(a slog.Attr) slog.Attr {
	a.Value = a.Value.Resolve()
	switch a.Value.Kind() {
	case slog.KindDuration:
		seconds := a.Value.Duration().Seconds()
		return slog.Float64(a.Key+"_s", math.Round(seconds*1e6)/1e6) // microseconds
	case slog.KindGroup:
		a.Value = slog.GroupValue(allForMachines(a.Value.Group())...)
	default:
		a.Value = harmless(a.Value)
	}
	return a
}

func allForMachines(attrs []slog.Attr) []slog.Attr {
	changed := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		changed[i] = forMachines(a)
	}
	return changed
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
// is unavailable.
type redisLog struct{ *slog.Logger }

func (l redisLog) Printf(ctx context.Context, format string, args ...any) {
	l.DebugContext(ctx, "redis", "message", fmt.Sprintf(format, args...))
}
