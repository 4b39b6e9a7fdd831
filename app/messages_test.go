package app

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/internal/credhelper"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// dial is how the upstreams of one message are reached.
type dial = func(ctx context.Context, network, addr string) (net.Conn, error)

// message is a failure and what clients are told about it.
type message struct {
	name    string
	path    string // "": a tag of ghcr.io/org/app
	method  string // "": GET
	options []upstreamtest.Option
	fault   []upstreamtest.Effect
	prepare func(*testing.T, *wire, *upstreamtest.Registry) // before the request; may be nil
	dial    dial                                            // nil: to the upstream
	change  func(*upstream.Options)                         // may be nil
	header  http.Header                                     // of the client
	offline bool
	// onBehalf lets the rights of clients decide.
	onBehalf bool
	second   bool // there is another upstream that has nothing
	status   int
	code     string
	want     string
	retry    string
	detail   string
}

// messages are what docs/troubleshooting.md explains: all that clients are told
// when something fails. The clock of the tests begins at midnight.
var messages = []message{
	{
		name: "unknown name", path: "gchr.io/org/app/manifests/1.2", status: 404, code: "NAME_UNKNOWN",
		want: `no configured repository answers this name: gchr.io/org/app; did you mean ghcr.io/org/app? names begin with ghcr.io`,
	},
	{
		name: "no host", path: "nginx/manifests/latest", status: 404, code: "NAME_UNKNOWN",
		want: `no configured repository answers this name: nginx; names begin with ghcr.io`,
	},
	{
		name: "a hidden name", prepare: permitting(access.Block{Images: []string{"!org/**"}}), header: asAlice, status: 404, code: "NAME_UNKNOWN",
		want: `this mirror does not serve ghcr.io/org/app. The images list of repository."ghcr.io" excludes it`,
	},
	{
		name: "an unknown name of a client without rights", path: "nowhere/app/manifests/1", prepare: permitting(access.Block{Allow: []access.Subject{{}}}), header: asAlice, status: 404, code: "NAME_UNKNOWN",
		want: `no configured repository answers this name: nowhere/app; there is none that you may pull from`,
	},
	{
		name: "a list without the user", prepare: permitting(access.Block{Allow: []access.Subject{{}}}), header: asAlice, status: 403, code: "DENIED",
		want: `alice may not pull from ghcr.io. The allow list of repository."ghcr.io" does not include it`,
	},
	{
		name: "a policy of the block", prepare: permitting(access.Block{Policy: &access.Policy{}}), header: asAlice, status: 403, code: "DENIED",
		want: `the access policy of ghcr.io does not allow get-manifest to alice. Check access_policy of repository."ghcr.io"`,
	},
	{
		name: "no credentials", prepare: permitting(access.Block{Policy: &access.Policy{}}), status: 401, code: "UNAUTHORIZED",
		want: `this mirror needs credentials. Log in to it`,
	},
	{
		name: "a policy of all requests", prepare: func(t *testing.T, w *wire, _ *upstreamtest.Registry) {
			w.permit(t, access.Options{Policy: &access.Policy{DefaultAllow: true, Rules: []string{`identity.username == 'alice'`}}})
		},
		header: asAlice, status: 403, code: "DENIED",
		want: `the access policy of the mirror does not allow get-manifest to alice. Check global.access_policy`,
	},
	{
		name: "unknown registry", path: "org/app/manifests/1.2?ns=quay.io", status: 404, code: "NAME_UNKNOWN",
		want: `no configured repository answers for the registry "quay.io" (ns) in the request for org/app; names begin with ghcr.io`,
	},
	{
		name: "misspelt registry", path: "org/app/manifests/1.2?ns=ghrc.io", status: 404, code: "NAME_UNKNOWN",
		want: `no configured repository answers for the registry "ghrc.io" (ns) in the request for org/app; did you mean ghcr.io/org/app? names begin with ghcr.io`,
	},
	{
		name: "offline", offline: true, status: 404, code: "MANIFEST_UNKNOWN",
		want: `tag 1.2: not cached, and the namespace is offline. Remove offline = true from repository."ghcr.io" to fetch it from ghcr.io`,
	},
	{
		name: "tag not found", status: 404, code: "MANIFEST_UNKNOWN",
		want:   `ghcr.io does not have org/app:1.2 (404 Not Found: MANIFEST_UNKNOWN: manifest unknown)`,
		detail: `{"upstream":"ghcr.io","class":"not_found","status":404}`,
	},
	{
		name: "no registry", status: 404, code: "MANIFEST_UNKNOWN",
		fault: []upstreamtest.Effect{upstreamtest.Status(404, "default backend - 404")},
		want: `ghcr.io does not have org/app:1.2 (404 Not Found: default backend - 404). ` +
			`The answer is not that of a registry. Check url of repository."ghcr.io".upstream[0], and whether a proxy or a login page is in between`,
	},
	{
		name: "blob not found", path: "ghcr.io/org/app/blobs/" + missingBlob, status: 404, code: "BLOB_UNKNOWN",
		want: `ghcr.io does not have org/app@` + missingBlob + ` (404 Not Found: BLOB_UNKNOWN: blob unknown to registry)`,
	},
	{
		name: "not found on two", second: true, status: 404, code: "MANIFEST_UNKNOWN",
		want: `ghcr.io does not have org/app:1.2 (404 Not Found: MANIFEST_UNKNOWN: manifest unknown). ` +
			`mirror.example does not have org/app:1.2 (404 Not Found: MANIFEST_UNKNOWN: manifest unknown)`,
	},
	{
		name: "denied to an account", onBehalf: true, header: asAlice, options: []upstreamtest.Option{upstreamtest.WithAccounts(upstreamtest.Account{Username: "alice", Password: "secret"})},
		status: 403, code: "DENIED",
		want: `ghcr.io does not serve org/app:1.2 to this account (403 Forbidden: DENIED: requested access to the resource is denied). ` +
			`It is private or does not exist. Log in to this mirror with an account of ghcr.io that may read it`,
		detail: `{"upstream":"ghcr.io","class":"denied","status":403}`,
	},
	{
		name: "limit of an account", onBehalf: true, header: asAlice, status: 429, code: "TOOMANYREQUESTS", retry: "60",
		fault: []upstreamtest.Effect{upstreamtest.Status(429, `{"errors":[{"code":"TOOMANYREQUESTS"}]}`), upstreamtest.Header("Retry-After", "60")},
		want:  `ghcr.io allows this account no more requests for 1m0s (429 Too Many Requests)`,
	},
	{
		name: "a right that cannot be told", onBehalf: true, header: asAlice, status: 503, code: "UNAVAILABLE", retry: "10",
		fault: []upstreamtest.Effect{upstreamtest.Status(500, "")},
		want: `ghcr.io must decide whether this account may read tag 1.2, but cannot at the moment: ghcr.io could not deliver org/app:1.2 (500 Internal Server Error). ` +
			`Set auth_stale_grace of repository."ghcr.io" to serve known clients meanwhile`,
	},
	{
		name: "denied to everyone", options: []upstreamtest.Option{upstreamtest.WithBasic("reader", "secret")}, status: 403, code: "DENIED",
		want: `ghcr.io does not serve org/app:1.2 to anonymous clients (401 Unauthorized: UNAUTHORIZED: authentication required). ` +
			`It is private or does not exist. If it exists, set username and password of repository."ghcr.io".upstream[0]`,
		detail: `{"upstream":"ghcr.io","class":"denied","status":401}`,
	},
	{
		name: "credentials refused", options: []upstreamtest.Option{upstreamtest.WithBasic("reader", "secret")}, change: wrongPassword, status: 403, code: "DENIED",
		want: `ghcr.io refused the configured credentials for org/app:1.2 (401 Unauthorized: UNAUTHORIZED: authentication required). ` +
			`Check username and password of repository."ghcr.io".upstream[0], and that they may read it`,
	},
	{
		name: "credential helper", options: []upstreamtest.Option{upstreamtest.WithBasic("reader", "secret")}, change: missingHelper, status: 502, code: "UNAVAILABLE",
		want: `ghcr.io could not deliver org/app:1.2: /missing/docker-credential-x: fork/exec /missing/docker-credential-x: no such file or directory. ` +
			`Check credential_helper of repository."ghcr.io".upstream[0], and the log of the mirror`,
	},
	{
		name: "credentials not asked for", fault: []upstreamtest.Effect{upstreamtest.Status(401, "")}, change: wrongPassword, status: 403, code: "DENIED",
		want: `ghcr.io denies org/app:1.2 and does not ask for the configured credentials (401 Unauthorized). ` +
			`Check url of repository."ghcr.io".upstream[0], and whether a proxy in between removes WWW-Authenticate`,
	},
	{
		name: "a web filter", fault: []upstreamtest.Effect{upstreamtest.Status(403, "<html>blocked</html>")}, change: wrongPassword, status: 403, code: "DENIED",
		want: `ghcr.io denies org/app:1.2 (403 Forbidden). ` +
			`The answer is not that of a registry. Check url of repository."ghcr.io".upstream[0], and whether a proxy or a login page is in between`,
	},
	{
		name: "a proxy that wants a password", fault: []upstreamtest.Effect{upstreamtest.Status(401, "<html>401 Authorization Required</html>"), upstreamtest.Header("WWW-Authenticate", "Basic")},
		status: 403, code: "DENIED",
		want: `ghcr.io does not serve org/app:1.2 to anonymous clients (401 Unauthorized). It is private or does not exist. If it exists, set username and password of repository."ghcr.io".upstream[0]`,
	},
	{
		name: "a proxy that refuses the password", change: wrongPassword,
		fault:  []upstreamtest.Effect{upstreamtest.Status(401, "<html>401 Authorization Required</html>"), upstreamtest.Header("WWW-Authenticate", "Basic")},
		status: 403, code: "DENIED",
		want: `ghcr.io refused the configured credentials for org/app:1.2 (401 Unauthorized). Check username and password of repository."ghcr.io".upstream[0], and that they may read it`,
	},
	{
		name: "token refused", change: wrongPassword, status: 403, code: "DENIED",
		options: []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{Username: "reader", Password: "secret", OnRegistry: true, Realm: "http://ghcr.io/token"})},
		want: `ghcr.io refused the configured credentials for org/app:1.2 (401 Unauthorized: UNAUTHORIZED: token service ghcr.io: incorrect username or password). ` +
			`Check username and password of repository."ghcr.io".upstream[0], and that they may read it`,
	},
	{
		name: "rate limited", fault: []upstreamtest.Effect{upstreamtest.Status(429, tooMany), upstreamtest.Header("Retry-After", "90")},
		status: 429, code: "TOOMANYREQUESTS", retry: "90",
		want: `ghcr.io allows no more requests until 00:01:30 UTC, in 1m30s (429 Too Many Requests: TOOMANYREQUESTS: You have reached your pull rate limit). ` +
			`Set username and password of repository."ghcr.io".upstream[0] for a limit of your own, raise tag_ttl, or add another upstream`,
		detail: `{"upstream":"ghcr.io","class":"rate_limited","status":429,"retry_after":90}`,
	},
	{
		name: "rate limited with credentials", fault: []upstreamtest.Effect{upstreamtest.Status(429, "")}, change: wrongPassword,
		status: 429, code: "TOOMANYREQUESTS", retry: "60",
		want: `ghcr.io allows no more requests until 00:01:00 UTC, in 1m0s (429 Too Many Requests). ` +
			`Raise tag_ttl, or add another upstream after repository."ghcr.io".upstream[0]`,
	},
	{
		name: "resting", fault: []upstreamtest.Effect{upstreamtest.Status(429, "")}, prepare: func(t *testing.T, m *wire, _ *upstreamtest.Registry) {
			wantStatus(t, m.do("GET", "/v2/ghcr.io/org/app/manifests/1.2", nil), 429)
			time.Sleep(20 * time.Second)
		},
		status: 429, code: "TOOMANYREQUESTS", retry: "40",
		want: `ghcr.io allows no more requests until 00:01:00 UTC, in 40s (no request is sent before the limit ends). ` +
			`Set username and password of repository."ghcr.io".upstream[0] for a limit of your own, raise tag_ttl, or add another upstream`,
		detail: `{"upstream":"ghcr.io","class":"rate_limited","retry_after":40}`,
	},
	{
		name: "limited by the host behind a redirect", path: "ghcr.io/org/app/blobs/" + missingBlob, status: 429, code: "TOOMANYREQUESTS", retry: "30",
		options: []upstreamtest.Option{upstreamtest.WithCDN(upstreamtest.CDN{})},
		prepare: func(_ *testing.T, _ *wire, r *upstreamtest.Registry) {
			r.Fault(upstreamtest.Blobs, upstreamtest.Status(307, ""), upstreamtest.Header("Location", "http://cdn.ghcr.io/cdn/org/app/x"))
			r.Fault(upstreamtest.CDNBlobs, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "30"))
		},
		want: `ghcr.io allows no more requests until 00:00:30 UTC, in 30s (429 Too Many Requests): the answer comes from cdn.ghcr.io, to which it redirects. ` +
			`ghcr.io sends clients there. Try again later, or add another upstream after repository."ghcr.io".upstream[0]`,
	},
	{
		name: "limited token service", status: 429, code: "TOOMANYREQUESTS", retry: "20",
		options: []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{OnRegistry: true, Realm: "http://ghcr.io/token"})},
		prepare: func(t *testing.T, m *wire, r *upstreamtest.Registry) {
			r.Fault(upstreamtest.Tokens, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "30"))
			wantStatus(t, m.do("GET", "/v2/ghcr.io/org/app/manifests/1.2", nil), 429)
			time.Sleep(10 * time.Second)
		},
		want: `ghcr.io allows no more requests until 00:00:30 UTC, in 20s (token service ghcr.io: no request is sent before the limit ends). ` +
			`Set username and password of repository."ghcr.io".upstream[0] for a limit of your own, raise tag_ttl, or add another upstream`,
	},
	{
		name: "broken upstream", fault: []upstreamtest.Effect{upstreamtest.Status(500, "database is down")}, status: 502, code: "UNAVAILABLE",
		want:   `ghcr.io could not deliver org/app:1.2 (500 Internal Server Error: database is down)`,
		detail: `{"upstream":"ghcr.io","class":"unavailable","status":500}`,
	},
	{
		name: "DNS", dial: failing(&net.DNSError{Err: "no such host", Name: "ghcr.io", IsNotFound: true}), status: 502, code: "UNAVAILABLE",
		want: `ghcr.io could not deliver org/app:1.2: connecting to ghcr.io: dial tcp: lookup ghcr.io: no such host. ` +
			`Check the host in url of repository."ghcr.io".upstream[0], and the DNS of the mirror's machine`,
		detail: `{"upstream":"ghcr.io","class":"unavailable"}`,
	},
	{
		name: "refused", dial: failing(os.NewSyscallError("connect", syscall.ECONNREFUSED)), status: 502, code: "UNAVAILABLE",
		want: `ghcr.io could not deliver org/app:1.2: connecting to ghcr.io: dial tcp: connect: connection refused. ` +
			`Nothing listens there. Check url of repository."ghcr.io".upstream[0]`,
	},
	{
		name: "left alone", dial: failing(os.NewSyscallError("connect", syscall.ECONNREFUSED)), status: 502, code: "UNAVAILABLE",
		prepare: func(t *testing.T, m *wire, _ *upstreamtest.Registry) {
			for range 3 {
				wantStatus(t, m.do("GET", "/v2/ghcr.io/org/app/manifests/1.2", nil), 502)
			}
		},
		want: `ghcr.io could not deliver org/app:1.2: backing off after 3 failures to reach it, the last one: dial tcp: connect: connection refused. ` +
			`Nothing listens there. Check url of repository."ghcr.io".upstream[0]`,
	},
	{
		name: "connect timeout", dial: hanging, status: 504, code: "UNAVAILABLE",
		want: `ghcr.io could not deliver org/app:1.2: connecting to ghcr.io: dial tcp: i/o timeout. ` +
			`Check the network and firewalls in between, or raise connect_timeout_secs or read_timeout_secs of repository."ghcr.io".upstream[0]`,
	},
	{
		name: "no answer", status: 504, code: "UNAVAILABLE",
		prepare: func(_ *testing.T, _ *wire, r *upstreamtest.Registry) {
			r.Fault(upstreamtest.Any, upstreamtest.Hold(upstreamtest.NewGate())) // a gate of the test's bubble
		},
		want: `ghcr.io could not deliver org/app:1.2: talking to ghcr.io: net/http: timeout awaiting response headers. ` +
			`Check the network and firewalls in between, or raise connect_timeout_secs or read_timeout_secs of repository."ghcr.io".upstream[0]`,
	},
	{
		name: "drip", fault: []upstreamtest.Effect{upstreamtest.Drip(1)}, status: 504, code: "UNAVAILABLE",
		prepare: func(_ *testing.T, _ *wire, r *upstreamtest.Registry) { r.AddImage("org/app", "1.2", []byte("layer")) },
		want: `ghcr.io could not deliver org/app:1.2: reading the body: the answer arrives too slowly. ` +
			`Check the network in between, or add another upstream after repository."ghcr.io".upstream[0]`,
	},
	{
		name: "busy", status: 503, code: "UNAVAILABLE", retry: "2",
		prepare: func(t *testing.T, m *wire, r *upstreamtest.Registry) {
			r.Fault(upstreamtest.Any, upstreamtest.Hold(upstreamtest.NewGate()))
			for i := range 64 + 2048 {
				go m.do("GET", fmt.Sprintf("/v2/ghcr.io/org/app/manifests/v%d", i), nil)
			}
			synctest.Wait()
		},
		want: `too many lookups of ghcr.io are under way. Try again later`,
	},
	{
		name: "unknown authority", options: []upstreamtest.Option{upstreamtest.WithTLS()}, change: https, status: 502, code: "UNAVAILABLE",
		want: `ghcr.io could not deliver org/app:1.2: connecting to ghcr.io: tls: failed to verify certificate: x509: certificate signed by unknown authority. ` +
			`If its authority is your own, write its certificate into server_ca_bundle of repository."ghcr.io".upstream[0]`,
	},
	{
		name: "no TLS", change: func(o *upstream.Options) { https(o); o.URL.Host = "ghcr.io:80" }, status: 502, code: "UNAVAILABLE",
		want: `ghcr.io:80 could not deliver org/app:1.2: connecting to ghcr.io:80: tls: first record does not look like a TLS handshake. ` +
			`It does not speak TLS. Check whether url of repository."ghcr.io".upstream[0] should begin with http://`,
	},
	{
		name: "too large", status: 502, code: "UNAVAILABLE", change: func(o *upstream.Options) { o.MaxManifestSize = 100 },
		prepare: func(_ *testing.T, _ *wire, r *upstreamtest.Registry) {
			r.AddImage("org/app", "1.2", []byte("a layer"))
		},
		want: `ghcr.io could not deliver org/app:1.2: manifest too large: more than 100 bytes. ` +
			`Raise global.max_manifest_size to serve it`,
	},
	{
		name: "blob too large", path: "ghcr.io/org/app/blobs/" + missingBlob, status: 502, code: "UNAVAILABLE",
		change: func(o *upstream.Options) { o.MaxBlobSize = 1024 },
		prepare: func(_ *testing.T, _ *wire, r *upstreamtest.Registry) {
			r.AddBlobAs("org/app", missingBlob, make([]byte, 1025))
		},
		want: `ghcr.io could not deliver org/app@` + missingBlob + `: the blob is too large: more than 1.0 KiB. ` +
			`Raise global.max_blob_size to serve it`,
	},
	{
		name: "schema 1", status: 502, code: "UNAVAILABLE",
		prepare: func(_ *testing.T, _ *wire, r *upstreamtest.Registry) {
			r.AddManifest("org/app", "1.2", "application/vnd.docker.distribution.manifest.v1+json", []byte(`{"schemaVersion":1}`))
		},
		want: `ghcr.io could not deliver org/app:1.2: manifests of Docker schema 1 are not served. Push the image again with a current client`,
	},
	{
		name: "wrong bytes", path: "ghcr.io/org/app/blobs/" + missingBlob, status: 502, code: "UNAVAILABLE",
		prepare: func(_ *testing.T, _ *wire, r *upstreamtest.Registry) {
			r.AddBlobAs("org/app", missingBlob, []byte("a liar"))
		},
		want: `the bytes do not match their digest: ` + missingBlob + ` from ghcr.io: 6 bytes have digest ` +
			`sha256:b91ffbd3bd243770d9f20553e0fa45ac4f4174eff01b1b18c1a6b8559c697122. The upstream's copy, or a proxy before it, is broken`,
	},
	{
		name: "redirects", options: nil, fault: []upstreamtest.Effect{upstreamtest.Status(307, ""), upstreamtest.Header("Location", "http://elsewhere.example/")},
		change: func(o *upstream.Options) { o.MaxRedirects = 0 }, status: 502, code: "UNAVAILABLE",
		want: `ghcr.io could not deliver org/app:1.2: too many redirects: more than 0, the last one to elsewhere.example. ` +
			`Raise max_redirect of repository."ghcr.io".upstream[0]`,
	},
	{
		name: "redirected to a host that is away", fault: []upstreamtest.Effect{upstreamtest.Status(307, ""), upstreamtest.Header("Location", "http://elsewhere.example/")},
		status: 502, code: "UNAVAILABLE",
		want: `ghcr.io could not deliver org/app:1.2: connecting to elsewhere.example: dial tcp: connection to elsewhere.example:80 refused. ` +
			`ghcr.io sends clients there, so the mirror must be able to reach it too`,
	},
	{
		name: "refused by the host behind a redirect", path: "ghcr.io/org/app/blobs/" + missingBlob, status: 502, code: "UNAVAILABLE",
		options: []upstreamtest.Option{upstreamtest.WithCDN(upstreamtest.CDN{})},
		prepare: func(_ *testing.T, _ *wire, r *upstreamtest.Registry) {
			r.Fault(upstreamtest.Blobs, upstreamtest.Status(307, ""), upstreamtest.Header("Location", "http://cdn.ghcr.io/cdn/org/app/x"))
		},
		want: `ghcr.io could not deliver org/app@` + missingBlob + ` (403 Forbidden): the answer comes from cdn.ghcr.io, to which it redirects. ` +
			`ghcr.io sends clients there with a signed link, which may have expired. Check the clocks, and whether a proxy or a web filter is in between`,
	},
	{
		name: "a redirect to a private address", path: "ghcr.io/org/app/manifests/1.2", status: 502, code: "UNAVAILABLE",
		fault: []upstreamtest.Effect{upstreamtest.Status(307, ""), upstreamtest.Header("Location", "http://10.0.0.7:9000/x")},
		want: `ghcr.io could not deliver org/app:1.2: connecting to 10.0.0.7:9000: it has a private address, but the upstream itself has none. ` +
			`ghcr.io sends clients there. If you trust that host, set allow_private_redirects = true of repository."ghcr.io".upstream[0]`,
	},
	{
		name: "another realm", change: func(o *upstream.Options) { wrongPassword(o); o.TokenRealm = "auth.ghcr.io" }, status: 502, code: "UNAVAILABLE",
		fault: []upstreamtest.Effect{upstreamtest.Status(401, ""), upstreamtest.Header("WWW-Authenticate", `Bearer realm="http://elsewhere.example/token"`)},
		want: `ghcr.io could not deliver org/app:1.2: the token service elsewhere.example is not the one that may receive the credentials. ` +
			`If you trust that host, name it in token_realm of repository."ghcr.io".upstream[0]`,
	},
	{
		name: "a realm at a link-local address", path: "ghcr.io/org/app/manifests/1.2", status: 502, code: "UNAVAILABLE",
		fault: []upstreamtest.Effect{upstreamtest.Status(401, ""), upstreamtest.Header("WWW-Authenticate", `Bearer realm="http://169.254.169.254/token"`)},
		want: `ghcr.io could not deliver org/app:1.2: token service 169.254.169.254: connecting to 169.254.169.254: it has a link-local address, which no upstream may refer to. ` +
			`ghcr.io sends clients there, which no setting allows. Check url of repository."ghcr.io".upstream[0], and whether a proxy is in between`,
	},
	{
		name: "wrong bytes of a manifest", path: "ghcr.io/org/app/manifests/" + missingBlob, status: 502, code: "UNAVAILABLE",
		fault: []upstreamtest.Effect{
			upstreamtest.Status(200, `{"mediaType":"application/vnd.oci.image.manifest.v1+json"}`),
			upstreamtest.Header("Content-Type", "application/vnd.oci.image.manifest.v1+json"),
		},
		want: `ghcr.io could not deliver org/app@` + missingBlob + `: content does not match its digest: it has ` +
			`sha256:0a1b17bf6d39f56897a7e8a056d930cf2bde38841a187aeb083d7487e2224573. The upstream's copy, or a proxy before it, is broken`,
	},
	{
		name: "no manifest", status: 502, code: "UNAVAILABLE",
		prepare: func(_ *testing.T, _ *wire, r *upstreamtest.Registry) {
			r.AddManifest("org/app", "1.2", "text/html", []byte("<html>please log in</html>"))
		},
		want: `ghcr.io could not deliver org/app:1.2: the answer is not a manifest: invalid character '<' looking for beginning of value. ` +
			`The answer is not that of a registry. Check url of repository."ghcr.io".upstream[0], and whether a proxy or a login page is in between`,
	},
	{
		name: "port of TLS", fault: []upstreamtest.Effect{upstreamtest.Status(400, "Client sent an HTTP request to an HTTPS server.")}, status: 502, code: "UNAVAILABLE",
		want: `ghcr.io could not deliver org/app:1.2 (400 Bad Request: Client sent an HTTP request to an HTTPS server.). ` +
			`The answer is not that of a registry. Check url of repository."ghcr.io".upstream[0], whether it should begin with https://, and whether a proxy is in between`,
	},
	{
		name: "proxy without its registry", fault: []upstreamtest.Effect{upstreamtest.Status(502, "<html>Bad Gateway</html>")}, status: 502, code: "UNAVAILABLE",
		want: `ghcr.io could not deliver org/app:1.2 (502 Bad Gateway). ` +
			`The answer is not that of a registry. Check that the registry behind it runs, and url of repository."ghcr.io".upstream[0]`,
	},
	{
		name: "proxy", dial: ending(&net.OpError{Op: "proxyconnect", Net: "tcp", Err: syscall.ECONNREFUSED}), status: 502, code: "UNAVAILABLE",
		want: `ghcr.io could not deliver org/app:1.2: connecting to ghcr.io: proxyconnect tcp: connection refused. ` +
			`Check proxy of repository."ghcr.io".upstream[0], or HTTP_PROXY, HTTPS_PROXY and NO_PROXY`,
	},
	{
		name: "client certificate", dial: ending(&net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")}), status: 502, code: "UNAVAILABLE",
		want: `ghcr.io could not deliver org/app:1.2: connecting to ghcr.io: remote error: tls: certificate required. ` +
			`It ended the TLS handshake. Check client_certificate and client_private_key of repository."ghcr.io".upstream[0]`,
	},
	{
		name: "certificate of another host", dial: ending(x509.HostnameError{Certificate: otherCertificate, Host: "ghcr.io"}), status: 502, code: "UNAVAILABLE",
		want: `ghcr.io could not deliver org/app:1.2: connecting to ghcr.io: x509: certificate is valid for other.example, not ghcr.io. ` +
			`Its certificate is for another host. Check url of repository."ghcr.io".upstream[0]`,
	},
	{
		name: "expired certificate", dial: ending(x509.CertificateInvalidError{Cert: otherCertificate, Reason: x509.Expired}), status: 502, code: "UNAVAILABLE",
		want: `ghcr.io could not deliver org/app:1.2: connecting to ghcr.io: x509: certificate has expired or is not yet valid: . ` +
			`Its certificate cannot be used. If it says expired, check the clock of the mirror's machine`,
	},
	{
		name: "loop", fault: []upstreamtest.Effect{upstreamtest.Status(508, `{"errors":[{"code":"LOOP","message":"the upstream of docker.io leads back to this mirror"}]}`)},
		status: 508, code: "LOOP",
		want: `ghcr.io could not deliver org/app:1.2 (508 Loop Detected: LOOP: the upstream of docker.io leads back to this mirror). ` +
			`It leads back to this mirror. Set url of repository."ghcr.io".upstream[0] to the registry itself`,
	},
	{
		name: "own request", header: http.Header{"Via": {"1.1 weir-me"}}, status: 508, code: "LOOP",
		want: `the upstream of ghcr.io leads back to this mirror. Check url of repository."ghcr.io".upstream`,
	},
	{
		name: "own request with another name", path: "elsewhere/app/manifests/1.2", header: http.Header{"Via": {"1.1 weir-me"}}, status: 508, code: "LOOP",
		want: `an upstream leads back to this mirror. Check url of each upstream of these mirrors`,
	},
	{
		name: "too many mirrors", header: http.Header{"Via": {strings.Repeat("1.1 weir-a1, ", 9)}}, status: 508, code: "LOOP",
		want: `the request has passed 9 mirrors, so their upstreams lead back to each other. Check url of each upstream of these mirrors`,
	},
	{
		name: "name", path: "ghcr.io/UPPER/manifests/1.2", status: 400, code: "NAME_INVALID",
		want: `not a repository name: "ghcr.io/UPPER"`,
	},
	{
		name: "tag", path: "ghcr.io/org/app/manifests/-1", status: 404, code: "MANIFEST_UNKNOWN",
		want: `neither a tag nor a digest: "-1"`,
	},
	{
		name: "digest", path: "ghcr.io/org/app/blobs/sha256:abc", status: 400, code: "DIGEST_INVALID",
		want: `not a sha256 or sha512 digest: "sha256:abc"`,
	},
	{
		name: "number", path: "ghcr.io/org/app/tags/list?n=x", status: 400, code: "PAGINATION_NUMBER_INVALID",
		want: `n is not a valid number of names: "x"`,
	},
	{
		name: "endpoint", path: "ghcr.io/org/app/frobs/x", status: 404, code: "NAME_UNKNOWN",
		want: `no such endpoint: "/v2/ghcr.io/org/app/frobs/x"`,
	},
	{
		name: "write", method: http.MethodPost, path: "ghcr.io/org/app/blobs/uploads/", status: 401, code: "UNAUTHORIZED",
		want: `ghcr.io/org/app is a read-only mirror of ghcr.io`,
	},
}

const (
	missingBlob = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" // of "x"
	tooMany     = `{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit"}]}`
)

var otherCertificate = &x509.Certificate{DNSNames: []string{"other.example"}}

// asAlice has the name and the password of the user of permit.
var asAlice = http.Header{"Authorization": {"Basic YWxpY2U6c2VjcmV0"}}

// permitting puts the rules of a block in force.
func permitting(block access.Block) func(*testing.T, *wire, *upstreamtest.Registry) {
	return func(t *testing.T, w *wire, _ *upstreamtest.Registry) {
		block.Key = "ghcr.io"
		w.permit(t, access.Options{Blocks: []access.Block{block}})
	}
}

// permit puts rules in force, with the user alice.
func (w *wire) permit(t *testing.T, opts access.Options) {
	t.Helper()
	hash, err := access.ParseHash("$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO") // of "secret", with the least cost
	if err != nil {
		t.Fatal(err)
	}
	opts.Realm, opts.Accounts = "Weir", []access.Account{{User: "alice", Hash: hash}}
	if opts.Blocks == nil {
		opts.Blocks = []access.Block{{Key: "ghcr.io"}}
	}
	rules, err := access.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	w.access.Store(rules)
}

func wrongPassword(o *upstream.Options) { o.Username, o.Password = "reader", "wrong" }

func missingHelper(o *upstream.Options) {
	o.Helper = credhelper.New("/missing/docker-credential-x", "ghcr.io", time.Hour, slog.New(slog.DiscardHandler))
}

func https(o *upstream.Options) { o.URL.Scheme = "https" }

func failing(err error) dial {
	return func(_ context.Context, network, _ string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
}

// ending ends each dial as it is.
func ending(err error) dial {
	return func(context.Context, string, string) (net.Conn, error) { return nil, err }
}

func hanging(ctx context.Context, network, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, &net.OpError{Op: "dial", Net: network, Err: os.ErrDeadlineExceeded}
}

func TestMessages(t *testing.T) {
	for _, test := range messages {
		t.Run(test.name, func(t *testing.T) { synctest.Test(t, test.run) })
	}
}

func (test message) run(t *testing.T) {
	network := upstreamtest.NewNetwork()
	r := upstreamtest.New(t, append(test.options, upstreamtest.WithNetwork(network, "ghcr.io"))...)
	if test.fault != nil {
		r.Fault(upstreamtest.Any, test.fault...)
	}
	spec := namespace.Spec{Key: "ghcr.io", Host: "ghcr.io", Offline: test.offline, OnBehalf: test.onBehalf}
	var members []upstream.Member
	add := func(host string, change ...func(*upstream.Options)) {
		o := upstream.Options{
			URL: &url.URL{Scheme: "http", Host: host}, DialContext: network.DialContext,
			MaxRedirects: 5, ConnectTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second,
		}
		if test.dial != nil {
			o.DialContext = test.dial
		}
		for _, f := range change {
			f(&o)
		}
		c := upstream.NewClient(o)
		t.Cleanup(c.Close)
		members = append(members, c)
		spec.UpstreamHosts = append(spec.UpstreamHosts, o.URL.Host)
	}
	if test.change == nil {
		test.change = func(*upstream.Options) {}
	}
	add("ghcr.io", test.change)
	if test.second {
		upstreamtest.New(t, upstreamtest.WithNetwork(network, "mirror.example"))
		add("mirror.example")
	}
	spec.Upstreams = upstream.NewChain(upstream.ChainOptions{}, members...)
	m := newWire(t, spec)
	if test.prepare != nil {
		test.prepare(t, m, r)
	}
	if test.path == "" {
		test.path = "ghcr.io/org/app/manifests/1.2"
	}
	if test.method == "" {
		test.method = http.MethodGet
	}
	w := m.do(test.method, "/v2/"+test.path, test.header)
	if got := wantError(t, w, test.status, test.code); got != test.want {
		t.Errorf("the message is\n%s\nwant\n%s", got, test.want)
	}
	wantHeader(t, w.Header(), "Retry-After", test.retry)
	if _, detail, _ := strings.Cut(w.Body.String(), `"detail":`); test.detail != "" && !strings.HasPrefix(detail, test.detail+"}]}") {
		t.Errorf("the detail is %s, want %s", detail, test.detail)
	}
}
