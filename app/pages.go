package app

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/check"
	"github.com/weirhq/weir/clientconfig"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/door"
	"github.com/weirhq/weir/internal/forwarded"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/pages"
	"github.com/weirhq/weir/storage/catalog"
)

// browsers are the pages for browsers, as far as the configuration in force has them.
type browsers struct {
	*pages.Handler

	enabled func() bool
}

// newBrowsers returns the pages over the parts of a mirror.
func (m *mirror) newBrowsers(documents *api.Handler) browsers {
	inForce := m.routing.clients.denied.inForce.Load
	guard := guard{&m.routing.access, &m.routing.proxies}
	return browsers{
		Handler: pages.New(pages.Options{
			API:       documents,
			Name:      func() string { return inForce().UI.Name },
			Blocks:    func(ctx context.Context) []string { return visible(ctx, m.routing.keys()) },
			MayPull:   mayPull,
			MayChange: guard.mayChange,
			Address:   func(r *http.Request) *url.URL { return pulledAt(r, m.routing.proxies.Load(), inForce().Server) },
			Client: func(ctx context.Context, client, url string) (clientconfig.Config, error) {
				return clientFiles(ctx, inForce(), client, url)
			},
			Check: func(ctx context.Context) ([]check.Result, error) {
				return checkUpstreams(ctx, inForce(), m.storage.catalog)
			},
			Registrar: registrar{mirror: m, adding: new(sync.Mutex)},
			Configuration: func(ctx context.Context) string {
				if keys := m.routing.keys(); len(visible(ctx, keys)) < len(keys) {
					return ""
				}
				var text bytes.Buffer
				_ = inForce().WriteTOML(&text) // a buffer takes all
				return text.String()
			},
		}),
		enabled: func() bool { return inForce().UI.Enabled },
	}
}

// pulledAt returns the URL at which the sender of a request for a page would pull: that of the page or, if
// the pages have a listener of their own, the same host with the port of the other one.
func pulledAt(r *http.Request, proxies forwarded.Proxies, server config.Server) *url.URL {
	at := &url.URL{Scheme: proxies.Scheme(r), Host: r.Host}
	if server.AdminAddress == "" || server.Port == 0 { // 0: the system has chosen it
		return at
	}
	return &url.URL{Scheme: at.Scheme, Host: net.JoinHostPort(at.Hostname(), strconv.Itoa(int(server.Port)))}
}

// visible returns the keys of those blocks that the client may know of.
func visible(ctx context.Context, keys []string) []string {
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return !sees(ctx, key, "") })
}

// mayPull reports whether the client may know of a repository below a block, and pull an image from there.
func mayPull(ctx context.Context, block string, image oci.Image) bool {
	return sees(ctx, block, image.Name) && isTold(ctx, access.Question{
		Action: access.GetManifest, Block: block, Name: image.Name, Namespace: block + "/" + image.Name,
		Reference: image.Reference.String(), Digest: image.Reference.Digest(),
	})
}

// add adds the paths of the pages. At / other clients than browsers get a text if there is one.
func (b browsers) add(paths endpoints, guard guard, text http.Handler) {
	if b.Handler == nil {
		return
	}
	guarded := guard.guardAPI(b.Handler, refuse)
	for _, path := range b.Paths() {
		paths[path] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			isRoot := path == "/" && text != nil
			switch {
			case isRoot && (!b.enabled() || !acceptsHTML(r.Header.Values("Accept")) && r.Header.Get("Accept") != pages.Events):
				text.ServeHTTP(w, r)
			case !b.enabled():
				noEndpoint(w, r)
			default:
				guarded.ServeHTTP(w, r)
			}
		})
	}
}

// mayChange reports whether the sender of a request may change the cache. It decides which
// buttons a page has; the guard decides about each change.
func (g guard) mayChange(r *http.Request) bool {
	rules := g.current.Load()
	if rules.Open() {
		return g.isLocal(r)
	}
	presented := access.Present(r, g.proxies.Load())
	identity, err := rules.Identify(r.Context(), presented)
	return err == nil && !identity.Anonymous && rules.Permit(r.Context(), identity, access.Question{Action: access.ChangeAPI}, presented) == nil
}

// checkUpstreams probes the upstreams of a configuration. It asks for images that are cached.
func checkUpstreams(ctx context.Context, cfg *config.Config, cached *catalog.Catalog) ([]check.Result, error) {
	open, err := OpenUpstreams(cfg)
	if err != nil {
		return nil, err
	}
	defer open.Close()
	images, err := check.NewImages(open.Specs)
	if err == nil {
		err = images.AddCached(ctx, cached)
	}
	if err != nil {
		return nil, err
	}
	return check.Run(ctx, open.Targets(cfg), images, check.Advice{Failure: ExplainUpstream, MoreRequests: MoreRequests}), nil
}

// clientFiles returns the files of a client that reaches a mirror at a URL. They hold the
// authority of the mirror's certificate if that is not public. The sender of the request is told
// nothing of the blocks that it may not know of: neither the files nor an error has one of them.
func clientFiles(ctx context.Context, cfg *config.Config, client, url string) (clientconfig.Config, error) {
	m, err := clientconfig.ParseMirror(url)
	if err != nil {
		return clientconfig.Config{}, fmt.Errorf("the address of the mirror %w", err)
	}
	var warnings []string
	if !m.Plain {
		m.CA, warnings = privateAuthority(cfg)
	}
	var namespaces []clientconfig.Namespace
	for _, r := range cfg.Namespaces {
		if sees(ctx, r.Key, "") {
			namespaces = append(namespaces, clientconfig.NewNamespace(r.Key, r.Host, r.Default))
		}
	}
	made, err := clientconfig.For(client, m, namespaces)
	made.Warnings = append(warnings, made.Warnings...)
	return made, err
}

// privateAuthority returns the authority of the certificate that a mirror serves, in PEM form; "" if
// clients trust it already or another server speaks TLS before the mirror.
func privateAuthority(cfg *config.Config) (text string, warnings []string) {
	t := cfg.Server.TLS
	if t == nil {
		return "", nil
	}
	if t.RequiresClient() {
		warnings = append(warnings, "the mirror serves only clients with a certificate (server.tls.client_auth). weir client-config adds it with --client-cert and --client-key")
	}
	path := t.ServerCertificateBundle
	switch {
	case t.ACME != nil && t.ACME.CABundle != "":
		return "", append(warnings, "the authority of server.tls.acme is private. weir client-config adds its root with --ca")
	case t.ACME != nil:
		return "", warnings
	case t.SelfSigned:
		path = door.SelfSignedPath(cfg.BlobStore.FS.RootDir)
	}
	chain, err := readChain(path)
	if err != nil {
		return "", append(warnings, "the certificate of the mirror cannot be read, so its authority is missing here. Check the files of server.tls")
	}
	if check.Public(chain) {
		return "", warnings
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain[len(chain)-1].Raw})), warnings
}

// readChain reads the certificates of a PEM file.
func readChain(path string) (chain []*x509.Certificate, err error) {
	content, err := os.ReadFile(path)
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" { // such as the key in a combined file
			continue
		}
		one, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, one)
	}
	if err == nil && len(chain) == 0 {
		err = errors.New("no certificate in PEM form")
	}
	return chain, err
}
