package acme

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/weirhq/weir/internal/printable"
)

// maxReply bounds the answer of an acme-dns server, and the output of a hook. An
// acme-dns server answers with some 70 bytes.
const maxReply = 4 << 10

// ACMEDNS sets the one TXT record of an account at an acme-dns server
// (github.com/joohoi/acme-dns), to which the record of each host is a CNAME.
type ACMEDNS struct {
	URL                           *url.URL
	Username, Password, Subdomain string
	Client                        *http.Client
}

// Present implements [Records].
func (a ACMEDNS) Present(ctx context.Context, _, value string) error {
	body, err := json.Marshal(map[string]string{"subdomain": a.Subdomain, "txt": value})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.URL.JoinPath("update").String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Api-User", a.Username)
	req.Header.Set("X-Api-Key", a.Password)
	// The headers hold the password, and a redirect would take them along.
	client := *a.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxReply))
		hidden := strings.ReplaceAll(string(text), a.Password, "[hidden]") // it may repeat the request
		return fmt.Errorf("%s answered %s: %s", a.URL.Host, resp.Status, printable.Line(hidden, maxReply))
	}
	return nil
}

// CleanUp does nothing: the server keeps the last two values.
func (a ACMEDNS) CleanUp(context.Context, string, string) error { return nil }
