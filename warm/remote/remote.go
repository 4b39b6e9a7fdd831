// Package remote warms the cache of a running mirror: it reads repositories over
// HTTP through the mirror, which stores the content that passes through it.
//
// [Mirror.Repository] is the [warm.Source] of one repository. It learns from the
// mirror's Cache-Status header (RFC 9211) whether content was stored before, is
// being stored, or is passed on without being stored. Requests that may succeed
// later are repeated; see insist in request.go.
package remote

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/url"
	"time"

	"github.com/weirhq/weir/warm"
)

const (
	// headerTimeout bounds the wait for the headers of an answer. It is long,
	// since the mirror may wait for its upstream or for a free download slot.
	headerTimeout = 10 * time.Minute
	// idleTimeout is how long an unused connection is kept: as long as the
	// mirror keeps its end of it.
	idleTimeout = 2 * time.Minute
	// maxHeaderBytes bounds the header of an answer. A mirror's has about 1 KiB.
	maxHeaderBytes = 64 << 10
)

// Mirror is a running mirror.
type Mirror struct {
	client    *http.Client
	root      *url.URL // of the API: http://host:port/v2
	userAgent string
	login     *url.Userinfo // nil: none
}

// New returns the mirror at an address such as http://mirror.internal:8000, for a user, or
// nil for no login. The settings are for one that has TLS; nil trusts the authorities of the system. It
// keeps as many idle connections as there are concurrent requests. Close must be
// called at the end.
func New(address *url.URL, login *url.Userinfo, settings *tls.Config, userAgent string, requests int) *Mirror {
	return &Mirror{
		root: address.JoinPath("v2"), userAgent: userAgent, login: login,
		client: &http.Client{Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			TLSClientConfig:       settings,
			DisableCompression:    true, // digests are those of the bytes as they are stored
			MaxIdleConnsPerHost:   requests,
			IdleConnTimeout:       idleTimeout,
			ResponseHeaderTimeout: headerTimeout,
			// As many as the mirror itself reads of a header.
			MaxResponseHeaderBytes: maxHeaderBytes,
		}},
	}
}

// Ping returns an error if no registry answers at the mirror's address.
func (m *Mirror) Ping(ctx context.Context) error {
	resp, err := m.send(ctx, http.MethodGet, m.root.JoinPath("/"), nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Repository returns a repository of the mirror, by the name that a pull through
// the mirror has.
func (m *Mirror) Repository(name string) warm.Source {
	return repository{mirror: m, root: m.root.JoinPath(name)}
}

// Close closes the idle connections.
func (m *Mirror) Close() { m.client.CloseIdleConnections() }
