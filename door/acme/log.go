package acme

import (
	"context"
	"log/slog"

	"go.uber.org/zap/zapcore"
)

// core passes the log of certmagic on, for debugging: what operators need to know comes
// with its events.
type core struct {
	handler slog.Handler
	fields  []zapcore.Field
}

func (c core) Enabled(zapcore.Level) bool {
	return c.handler.Enabled(context.Background(), slog.LevelDebug)
}

func (c core) With(fields []zapcore.Field) zapcore.Core {
	return core{c.handler, append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c core) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(entry.Level) {
		return checked
	}
	return checked.AddCore(entry, c)
}

func (c core) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	encoder := zapcore.NewMapObjectEncoder()
	for _, field := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		field.AddTo(encoder)
	}
	record := slog.NewRecord(entry.Time, slog.LevelDebug, "certificates: "+entry.Message, 0)
	for name, value := range encoder.Fields {
		record.AddAttrs(slog.Any(name, value))
	}
	return c.handler.Handle(context.Background(), record)
}

func (c core) Sync() error { return nil }
