// Package sse sends server-sent events (HTML Standard, section 9.2) to clients that may read
// slowly, or not at all.
package sse

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"
)

const (
	// patience is how long one write may take. A client that reads nothing must not keep the place
	// of another one.
	patience = 10 * time.Second
	// heartbeat is the longest silence of a stream. Proxies end connections that are silent for a minute.
	heartbeat = 15 * time.Second
	// retry is after how many milliseconds a client asks again for a stream that has ended.
	retry = 1000
)

// Stream is an answer that goes on.
type Stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	pending bytes.Buffer
	spoken  time.Time
}

// Begin sets the header of an answer. The body is empty until the first Flush.
func Begin(w http.ResponseWriter) *Stream {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // of nginx, which would hold events back
	s := &Stream{w: w, control: http.NewResponseController(w)}
	fmt.Fprintf(&s.pending, "retry: %d\n\n", retry)
	return s
}

// Event adds an event for the next Flush. Data is one line.
func (s *Stream) Event(kind, id string, data []byte) {
	fmt.Fprintf(&s.pending, "event: %s\n", kind)
	if id != "" {
		fmt.Fprintf(&s.pending, "id: %s\n", id)
	}
	fmt.Fprintf(&s.pending, "data: %s\n\n", data)
}

// Flush sends the events, or a sign of life after a long silence. It returns an error if the client
// has left, or accepts nothing for ten seconds.
func (s *Stream) Flush() error {
	if s.pending.Len() == 0 && time.Since(s.spoken) >= heartbeat {
		s.pending.WriteString(": alive\n\n")
	}
	if s.pending.Len() == 0 {
		return nil
	}
	s.spoken = time.Now()
	_ = s.control.SetWriteDeadline(s.spoken.Add(patience)) // the writers of tests have none
	_, err := s.w.Write(s.pending.Bytes())
	s.pending.Reset()
	if err == nil {
		err = s.control.Flush()
	}
	if err == nil {
		_ = s.control.SetWriteDeadline(time.Time{}) // else the connection is of no use any more
	}
	return err
}

// Follow calls round at once and after each pause, and sends the events that it has added, until the context
// ends or one of the two fails.
func (s *Stream) Follow(ctx context.Context, pause time.Duration, round func() error) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for ctx.Err() == nil && round() == nil && s.Flush() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}
