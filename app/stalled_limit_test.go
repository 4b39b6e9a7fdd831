package app

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// bounded is a writer that notes its deadlines.
type bounded struct {
	*httptest.ResponseRecorder
	deadlines []time.Duration // from the moment in which each was set; 0: none
}

func (b *bounded) SetWriteDeadline(t time.Time) error {
	d := time.Duration(0)
	if !t.IsZero() {
		d = time.Until(t)
	}
	b.deadlines = append(b.deadlines, d)
	return nil
}

// The limit of a handler holds for its writes over HTTP/2 until it is lifted.
func TestLimitOfAHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &bounded{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.ProtoMajor = 2
		endStalledStreams(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			control := http.NewResponseController(w)
			_ = control.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = w.Write([]byte("x"))
			_ = control.Flush()
			_ = control.SetWriteDeadline(time.Time{})
			_, _ = w.Write([]byte("x"))
		})).ServeHTTP(w, r)
		want := []time.Duration{time.Second, time.Second, time.Second, time.Second, time.Second, 0, stallTimeout, 0, stallTimeout}
		if !slices.Equal(w.deadlines, want) {
			t.Errorf("%v, want %v", w.deadlines, want)
		}
	})
}
