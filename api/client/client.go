// Package client asks the API of a running mirror over HTTP.
//
// Each method of [Client] is one request, or one for each page of a list. It returns the documents
// of package api. Answers are bounded in bytes and in time. The text in them may be any
// stranger's: show it with package printable.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/oci"
)

const (
	// AtOnce is how many requests a caller should have under way: a mirror reads for that many at
	// once, from all of its clients.
	AtOnce = 4
	// answerTimeout bounds one request. The mirror gives its requests 30 s.
	answerTimeout = 45 * time.Second
	// maxAnswer bounds an answer, in bytes. The longest one is that about a manifest with a few
	// thousand parts and long labels.
	maxAnswer = 32 << 20
	// maxHeaderBytes bounds the header of an answer. A mirror's has about 1 KiB.
	maxHeaderBytes = 64 << 10
)

// Client is a client of the API of one mirror.
type Client struct {
	http      *http.Client
	root      *url.URL // of the API: http://host:port/api/v1
	login     *url.Userinfo
	userAgent string
}

// New returns a client of the mirror at an address such as http://mirror.internal:8000, for a user,
// or nil for no login. The settings are for a mirror that has TLS; nil trusts the authorities of
// the system. Close must be called at the end.
func New(address *url.URL, login *url.Userinfo, settings *tls.Config, userAgent string) *Client {
	return &Client{
		root: address.JoinPath(strings.Trim(api.Prefix, "/")), login: login, userAgent: userAgent,
		http: &http.Client{
			Transport: &http.Transport{
				Proxy: http.ProxyFromEnvironment, TLSClientConfig: settings,
				MaxIdleConnsPerHost: AtOnce, MaxResponseHeaderBytes: maxHeaderBytes,
			},
			// A mirror answers by itself. The login is for no other host.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Close closes the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// ErrNoAPI says that a program without this API answers at the address: another program, or a
// mirror that serves its API elsewhere.
var ErrNoAPI = errors.New("it does not serve the API of a mirror")

// RefusalError is an answer of a mirror that is an error.
type RefusalError struct {
	Status  int
	Code    string
	Message string // the mirror's own words
}

// Error returns the mirror's own words, which say more than the status.
func (e *RefusalError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("the mirror answered %d %s", e.Status, http.StatusText(e.Status))
	}
	return e.Message
}

// call is one request to the API.
type call struct {
	method string
	path   []string // the segments, each of which may hold slashes
	query  url.Values
	body   any // nil: none
}

// ask sends a request and reads its answer. It returns a [*RefusalError] if the mirror refuses, and
// an error that matches [ErrNoAPI] if the answer is not one of the API.
func ask[Document any](ctx context.Context, c *Client, one call) (document Document, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errors.New("no answer within "+answerTimeout.String()))
	defer cancel()
	req, err := c.request(ctx, one)
	if err != nil {
		return document, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return document, unsent(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return document, refusalOf(resp)
	}
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return document, fmt.Errorf("the answer broke off: %w", unsent(ctx, err))
	case len(content) > maxAnswer:
		return document, fmt.Errorf("the answer is longer than %d MiB: %w", maxAnswer>>20, ErrNoAPI)
	// A removal has nothing to tell.
	case resp.StatusCode == http.StatusNoContent:
		return document, nil
	}
	if json.Unmarshal(content, &document) != nil {
		return document, fmt.Errorf("the answer is not the JSON document of a mirror: %w", ErrNoAPI)
	}
	return document, nil
}

func (c *Client) request(ctx context.Context, one call) (*http.Request, error) {
	target := c.root
	for _, segment := range one.path {
		target = target.JoinPath(url.PathEscape(segment))
	}
	target.RawQuery = one.query.Encode()
	var body io.Reader
	if one.body != nil {
		content, err := json.Marshal(one.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(content)
	}
	req, err := http.NewRequestWithContext(ctx, one.method, target.String(), body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", c.userAgent)
	if c.login != nil {
		password, _ := c.login.Password()
		req.SetBasicAuth(c.login.Username(), password)
	}
	return req, nil
}

// unsent returns the reason of a request without an answer. The reason of a timeout is not the
// context's.
func unsent(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// The error of the client repeats the method and the URL.
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// refusalOf returns the error of an answer that is not a success.
func refusalOf(resp *http.Response) error {
	e := &RefusalError{Status: resp.StatusCode}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		e.Code, e.Message = oci.ReadError(resp.Body)
	}
	switch {
	// Another program has no such document, and a listener without the API has no such path.
	case resp.StatusCode == http.StatusNotFound && (e.Code == "" || strings.HasPrefix(e.Message, "no such endpoint")),
		resp.StatusCode/100 == 3:
		return fmt.Errorf("the answer is %d %s: %w", resp.StatusCode, http.StatusText(resp.StatusCode), ErrNoAPI)
	case resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "":
		if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
			e.Message += fmt.Sprintf(" (after %d s)", seconds)
		}
	}
	return e
}
