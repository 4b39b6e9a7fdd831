package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/warm"
)

const (
	// attempts is how often a request is made before it counts as failed. With
	// the pauses between them, a mirror has 7 s to come back.
	attempts = 4
	// firstPause is the pause before the second attempt. It doubles from then on.
	firstPause = time.Second
	// maxPause is the longest Retry-After that is waited for. A mirror that asks
	// for more is at a rate limit of minutes or hours: the operator should know.
	maxPause = time.Minute
)

// permanent is a failure that another attempt would not change.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// RefusalError is an answer of a mirror that is an error.
type RefusalError struct {
	Status     int // of HTTP
	message    string
	retryAfter time.Duration
}

// Error returns the mirror's own words, which say more than the status.
func (r RefusalError) Error() string {
	if r.message == "" {
		return fmt.Sprintf("the mirror answered %d %s", r.Status, http.StatusText(r.Status))
	}
	return fmt.Sprintf("%d: %s", r.Status, r.message)
}

// send makes one request. Every answer but 200 and 206 is an error, which is
// permanent if the mirror would say the same again. The caller closes the body.
func (m *Mirror) send(ctx context.Context, method string, target *url.URL, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
	if err != nil {
		return nil, permanent{err}
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", m.userAgent)
	if m.login != nil {
		password, _ := m.login.Password()
		req.SetBasicAuth(m.login.Username(), password)
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent {
		return resp, nil
	}
	defer resp.Body.Close()
	r := RefusalError{Status: resp.StatusCode}
	var body bytes.Buffer
	_, r.message = oci.ReadError(io.TeeReader(resp.Body, &body))
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		r.retryAfter = time.Duration(seconds) * time.Second
	}
	if r.Status == http.StatusNotFound && isUpstreams(body.Bytes()) {
		return nil, permanent{warm.NotFound(r)}
	}
	// 429 is the one answer of the client's kind that time changes.
	if r.Status < http.StatusInternalServerError && r.Status != http.StatusTooManyRequests {
		return nil, permanent{r}
	}
	return nil, r
}

// isUpstreams reports whether a "not found" is the word of the mirror's upstreams. It
// is not if the mirror is offline, or mirrors no such registry.
func isUpstreams(body []byte) bool {
	var document struct {
		Errors []struct {
			Detail struct {
				Class string `json:"class"`
			} `json:"detail"`
		} `json:"errors"`
	}
	return json.Unmarshal(body, &document) == nil && len(document.Errors) > 0 && document.Errors[0].Detail.Class == "not_found"
}

// insist repeats an attempt until it succeeds, fails permanently, or has failed
// four times. It pauses for 1, 2 and 4 s, or for as long as the mirror asks.
func insist(ctx context.Context, attempt func() error) error {
	pause := firstPause
	for n := 1; ; n++ {
		err := attempt()
		if err == nil || ctx.Err() != nil {
			return err
		}
		if p, ok := errors.AsType[permanent](err); ok {
			return p.error
		}
		wait := pause
		if r, ok := errors.AsType[RefusalError](err); ok {
			wait = max(wait, r.retryAfter)
		}
		// The last error is the one that the operator sees.
		if n == attempts || wait > maxPause {
			return err
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		pause *= 2
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
