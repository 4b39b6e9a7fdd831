package fleet

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage/s3/s3test"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// issuer is a service that gives the keys of a role to a process that shows its token: an agent
// of pods, a task's, a machine's, or the token service of Amazon.
type issuer struct {
	*httptest.Server
	t   *testing.T
	dir string
}

const issuedKey, podToken = "ASIAISSUED", "a token of the pod"

func startIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{t: t, dir: t.TempDir()}
	i.Server = httptest.NewServer(http.HandlerFunc(i.answer))
	t.Cleanup(i.Close)
	harness.WriteFile(t, i.file(), podToken)
	harness.WriteFile(t, filepath.Join(i.dir, "profile"), "[default]\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = secret\n")
	return i
}

func (i *issuer) file() string { return filepath.Join(i.dir, "token") }

// answer is that of each service, by the path.
func (i *issuer) answer(w http.ResponseWriter, r *http.Request) {
	ends := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	keys := fmt.Sprintf(`{"Code":"Success","AccessKeyId":%q,"SecretAccessKey":"secret","Token":"session","Expiration":%q}`, issuedKey, ends)
	switch path := r.URL.Path; {
	case path == "/pod" && r.Header.Get("Authorization") == podToken:
		fmt.Fprint(w, keys)
	case path == "/latest/api/token" && r.Method == http.MethodPut && r.Host == "169.254.169.254":
		fmt.Fprint(w, podToken)
	case strings.HasPrefix(path, "/latest/") && r.Header.Get("X-Aws-Ec2-Metadata-Token") != podToken:
		w.WriteHeader(http.StatusUnauthorized)
	case path == "/latest/meta-data/iam/security-credentials/":
		fmt.Fprint(w, "weir")
	case path == "/latest/meta-data/iam/security-credentials/weir":
		fmt.Fprint(w, keys)
	case r.TLS != nil && r.FormValue("Action") == "AssumeRoleWithWebIdentity" && r.FormValue("WebIdentityToken") == podToken && r.FormValue("RoleArn") == "arn:aws:iam::1:role/weir":
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>`+
			`<AccessKeyId>%s</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>session</SessionToken><Expiration>%s</Expiration>`+
			`</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, issuedKey, ends)
	default:
		i.t.Errorf("the issuer was asked %s %s%s by %q", r.Method, r.Host, r.URL, r.Header)
		w.WriteHeader(http.StatusForbidden)
	}
}

// tokenService returns the environment of a process whose requests to the token service of
// Amazon come here, by a proxy and with a certificate of its own.
func (i *issuer) tokenService() []string {
	authority := testutil.NewAuthority(i.t)
	certificate, key := authority.IssueAs("sts", time.Now().AddDate(1, 0, 0), func(c *x509.Certificate) { c.DNSNames = []string{"sts.eu-west-1.amazonaws.com"} })
	pair, err := tls.LoadX509KeyPair(certificate, key)
	harness.Must(i.t, err)
	service := httptest.NewUnstartedServer(http.HandlerFunc(i.answer))
	service.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	service.StartTLS()
	i.t.Cleanup(service.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "sts.eu-west-1.amazonaws.com:443" {
			i.t.Errorf("the proxy was asked %s %s", r.Method, r.Host)
			return
		}
		out, err := net.Dial("tcp", service.Listener.Addr().String())
		if err != nil {
			i.t.Error(err)
			return
		}
		in, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			i.t.Error(err)
			return
		}
		_, _ = io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(out, in); out.Close() }()
		go func() { _, _ = io.Copy(in, out); in.Close() }()
	}))
	i.t.Cleanup(proxy.Close)
	return []string{"HTTPS_PROXY=" + proxy.URL, "SSL_CERT_FILE=" + authority.File()}
}

// Without a key in the configuration the credentials come from where the process runs, and
// each request to the bucket, and each URL for clients, is signed with them.
func TestBucketCredentials(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		env  func(*issuer) []string
		want string
	}{
		"variables": {func(*issuer) []string {
			return []string{"AWS_ACCESS_KEY_ID=AKIAVARIABLE", "AWS_SECRET_ACCESS_KEY=secret"}
		}, "AKIAVARIABLE"},
		"a profile": {func(i *issuer) []string {
			return []string{"AWS_SHARED_CREDENTIALS_FILE=" + filepath.Join(i.dir, "profile")}
		}, "AKIAPROFILE"},
		"Pod Identity": {func(i *issuer) []string {
			return []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + i.URL + "/pod", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + i.file()}
		}, issuedKey},
		"a task": {func(i *issuer) []string {
			return []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + i.URL + "/pod", "AWS_CONTAINER_AUTHORIZATION_TOKEN=" + podToken}
		}, issuedKey},
		"a web identity (IRSA)": {func(i *issuer) []string {
			return append(i.tokenService(), "AWS_WEB_IDENTITY_TOKEN_FILE="+i.file(), "AWS_ROLE_ARN=arn:aws:iam::1:role/weir", "AWS_REGION=eu-west-1")
		}, issuedKey},
		"a machine (IMDSv2)": {func(i *issuer) []string { return []string{"HTTP_PROXY=" + i.URL} }, issuedKey},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, upstream := s3test.New(t), upstreamtest.New(t)
			var mu sync.Mutex
			used := map[string]int{}
			signer := regexp.MustCompile(`Credential=([^/%]+)(/|%2F)`)
			server.Intercept(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					found := signer.FindStringSubmatch(r.Header.Get("Authorization") + r.URL.RawQuery)
					mu.Lock()
					if found == nil {
						used["none"]++
					} else {
						used[found[1]]++
					}
					mu.Unlock()
					next.ServeHTTP(w, r)
				})
			})
			i := addImage(upstream, "1.0", content(mib, 15))
			config := regexp.MustCompile(`(?m)^(access_key_id|secret_key) = .*\n`).ReplaceAllString(server.Config(), "")
			env := append([]string{"HOME=" + t.TempDir(), "HTTP_PROXY=", "HTTPS_PROXY=", "NO_PROXY="}, tc.env(startIssuer(t))...)
			w := harness.StartWeir(t, config+block(upstream), env...)
			pull(t, w, i, "1.0")
			inBucket(t, server, 3, i.manifest, i.layer)
			w.Client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			harness.Eventually(t, "a client is sent to the bucket", func() bool {
				answer := w.Do(t, http.MethodGet, i.layerPath())
				found := signer.FindStringSubmatch(answer.Header.Get("Location"))
				return answer.Status == http.StatusTemporaryRedirect && found != nil && found[1] == tc.want
			})
			mu.Lock()
			defer mu.Unlock()
			if len(used) != 1 || used[tc.want] == 0 {
				t.Errorf("the requests were signed by %v, want %s", used, tc.want)
			}
		})
	}
}
