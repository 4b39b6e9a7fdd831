package tests

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

// An operator learns of a file that gives its secret wrongly before a registry
// refuses the secret.
func TestSecretFilesOfEditors(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]struct {
		code int
		text string
	}{
		"s3cret\n":           {0, "# ok"},
		"s3cret\r\n":         {0, "# ok"},
		"s3cret \n":          {0, "ends with white space"},
		"s3cret\n\n":         {0, "has more than one line"},
		"\ufeffs3cret\r\n":   {2, "begins with a byte order mark"},
		"\xff\xfes\x003\x00": {2, "is UTF-16"},
	} {
		dir := t.TempDir()
		harness.WriteFile(t, filepath.Join(dir, "password"), content)
		harness.WriteFile(t, filepath.Join(dir, "weir.toml"), "[blob_store.fs]\nroot_dir = \"data\"\n"+
			blockOf("ghcr.io", nil, []string{fmt.Sprintf("url = \"https://ghcr.io\"\nusername = %q\npassword_file = \"password\"", username)}))
		got := command(t, dir, "check")
		if got.code != want.code || !strings.Contains(got.stdout+got.stderr, want.text) || strings.Contains(got.stdout+got.stderr, "s3cret") {
			t.Errorf("%q: %d\n%s%s", content, got.code, got.stdout, got.stderr)
		}
	}
}
