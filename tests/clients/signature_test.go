package clients

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

const signatureType = "application/vnd.dev.cosign.artifact.sig.v1+json"

// Signatures come through the mirror in each of the ways in which cosign and
// oras attach them: as referrers, which the registry lists or a tag does, and
// under a tag of cosign's. They still do while the registry is away.
func TestSignatures(t *testing.T) {
	crane, oras := harness.Tool(t, "clients", "crane"), harness.Tool(t, "clients", "oras")
	for kind, option := range map[string]string{"listed-by-the-registry": "--api-referrer=true", "listed-by-a-tag": "--api-referrer=false"} {
		t.Run(kind, func(t *testing.T) {
			addr, stop := startOlareg(t, option)
			push := &harness.Pusher{Client: http.DefaultClient, Base: "http://" + addr}
			image, signature := harness.NewImage(t, 1000), harness.NewImage(t, 10)
			push.PushImage(t, "org/app", "1.2", image)
			tag := strings.ReplaceAll(image.Digest.String(), ":", "-")
			push.PushImage(t, "org/app", tag+".sig", signature)
			dir := t.TempDir()
			harness.WriteFile(t, filepath.Join(dir, "signature"), "signed")
			attach := exec.CommandContext(t.Context(), oras, "attach", "--plain-http", "--artifact-type", signatureType,
				addr+"/org/app@"+image.Digest.String(), "signature")
			attach.Dir = dir
			harness.Run(t, attach)

			w := harness.StartWeir(t, fmt.Sprintf("[repository.\"ghcr.io\"]\n[[repository.\"ghcr.io\".upstream]]\nurl = \"http://%s\"\n", addr))
			name := w.Addr + "/ghcr.io/org/app"
			run := func(args ...string) string {
				return harness.Output(t, exec.CommandContext(t.Context(), args[0], args[1:]...))
			}
			verify := func() {
				t.Helper()
				if got := run(crane, "manifest", "--insecure", name+"@"+image.Digest.String()); got != string(image.Manifest) {
					t.Errorf("the image's manifest is %s", got)
				}
				found := referrers(t, oras, name+"@"+image.Digest.String(), signatureType)
				if len(found) != 1 || len(referrers(t, oras, name+"@"+image.Digest.String(), "application/other")) != 0 {
					t.Fatalf("oras found %q", found)
				}
				out := t.TempDir()
				run(oras, "pull", "--plain-http", "--output", out, name+"@"+found[0])
				if got, err := os.ReadFile(filepath.Join(out, "signature")); string(got) != "signed" {
					t.Errorf("oras pulled the signature %q: %v", got, err)
				}
				if got := run(crane, "manifest", "--insecure", name+":"+tag+".sig"); got != string(signature.Manifest) {
					t.Errorf("cosign's tag leads to %s", got)
				}
				if got := run(crane, "ls", "--insecure", name); !slices.Contains(strings.Fields(got), "1.2") || !slices.Contains(strings.Fields(got), tag+".sig") {
					t.Errorf("the tags are %q", got)
				}
			}
			verify()
			harness.Eventually(t, "all is stored", func() bool { return w.Metric(t, "weir_downloads") == 0 })
			stop()
			verify()
		})
	}
}

// referrers returns the digests of the artifacts of a type that oras finds.
func referrers(t *testing.T, oras, subject, artifactType string) []string {
	t.Helper()
	out := harness.Output(t, exec.CommandContext(t.Context(), oras, "discover", "--plain-http", "--format", "json",
		"--artifact-type", artifactType, subject))
	var tree struct {
		Referrers []struct{ Digest, ArtifactType string }
	}
	harness.Must(t, json.Unmarshal([]byte(out), &tree))
	var found []string
	for _, r := range tree.Referrers {
		if r.ArtifactType != artifactType {
			t.Errorf("%s is of type %s", r.Digest, r.ArtifactType)
		}
		found = append(found, r.Digest)
	}
	return found
}
