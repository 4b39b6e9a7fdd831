package sse

import (
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slow is the writer of an answer that notes its deadlines.
type slow struct {
	*httptest.ResponseRecorder
	deadlines []time.Duration // from the moment in which each was set; 0: none
	stalled   bool
}

func (s *slow) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		s.deadlines = append(s.deadlines, 0)
		return nil
	}
	s.deadlines = append(s.deadlines, time.Until(t))
	return nil
}

func (s *slow) Write(p []byte) (int, error) {
	if s.stalled {
		return 0, errors.New("deadline exceeded")
	}
	return s.ResponseRecorder.Write(p)
}

// Each write has a deadline, which is lifted behind it, and a client that does not read ends the stream.
func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &slow{ResponseRecorder: httptest.NewRecorder()}
		s := Begin(w)
		rounds := 0
		s.Follow(t.Context(), time.Second, func() error {
			rounds++
			switch rounds {
			case 1:
				s.Event("one", "7", []byte("{}"))
			case 40:
				w.stalled = true
				s.Event("two", "", []byte("{}"))
			}
			return nil
		})
		if rounds != 40 {
			t.Errorf("the stream ended in round %d", rounds)
		}
		if got, want := w.Body.String(), "retry: 1000\n\nevent: one\nid: 7\ndata: {}\n\n"+strings.Repeat(": alive\n\n", 2); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if want := []time.Duration{patience, 0, patience, 0, patience, 0, patience}; !slices.Equal(w.deadlines, want) {
			t.Errorf("deadlines %v, want %v", w.deadlines, want)
		}
	})
}

// A round that fails ends the stream.
func TestRoundFails(t *testing.T) {
	w := httptest.NewRecorder()
	Begin(w).Follow(t.Context(), time.Hour, func() error { return errors.New("gone") })
	if w.Body.Len() != 0 {
		t.Errorf("%q", w.Body)
	}
}
