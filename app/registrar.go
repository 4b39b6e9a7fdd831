package app

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/pages"
)

// registrar makes the blocks that people describe on a page. The right to change the cache
// is enough for it, and such people may have no other rights of an operator.
type registrar struct {
	*mirror

	adding *sync.Mutex // one block at a time
	trial  trial
}

// draftOf returns the block of a form.
func draftOf(r pages.Registry) config.Draft {
	return config.Draft{
		Key: r.Key, URL: r.URL, Username: r.Username, Password: config.Secret(r.Password), Default: r.Default,
		Helper: r.Helper, Authority: r.Authority, Certificate: r.Certificate,
	}
}

// Permit refuses a client that may not know of all blocks: messages may name any of them.
func (r registrar) Permit(ctx context.Context) error {
	if keys := r.routing.keys(); len(visible(ctx, keys)) < len(keys) {
		return &api.Failure{Status: http.StatusForbidden, Code: "DENIED", Message: "The access rules of the mirror hide some blocks from you, so you cannot add one"}
	}
	return nil
}

func (r registrar) inForce() *config.Config { return r.routing.clients.denied.inForce.Load() }

// Draft returns a block as TOML without its password, or the problems of its fields.
func (r registrar) Draft(ctx context.Context, described pages.Registry) (string, []pages.FieldProblem, error) {
	if err := r.Permit(ctx); err != nil {
		return "", nil, err
	}
	draft := r.withDefault(draftOf(described))
	checked := draft
	if described.Untried && draft.Username != "" {
		checked.Password = "in a file" // the operator writes it
	}
	_, err := checked.Load(r.inForce().UI.AllowPrivateRegistries)
	problems := append(fieldProblems(draft, err), certificateProblems(described)...)
	if _, err := imageOf(described); err != nil {
		problems = append(problems, pages.FieldProblem{Field: "image", Message: err.Error()})
	}
	return r.inForce().Paste(draft), problems, nil
}

// withDefault returns a draft that serves the names without a block only if no other block does.
func (r registrar) withDefault(draft config.Draft) config.Draft {
	for _, block := range r.inForce().Namespaces {
		draft.Default = draft.Default && (!block.Default || block.Key == draft.Key)
	}
	return draft
}

// fieldProblems returns the problems of a draft by the fields of the form.
func fieldProblems(draft config.Draft, err error) []pages.FieldProblem {
	if err == nil {
		return nil
	}
	found, ok := errors.AsType[config.Problems](err)
	if !ok {
		return []pages.FieldProblem{{Message: err.Error()}}
	}
	var problems []pages.FieldProblem
	for _, p := range found {
		field := ""
		for _, name := range []string{"url", "username", "password"} {
			if strings.HasSuffix(p.Key, ".upstream[0]."+name) {
				field = name
			}
		}
		if field == "" && strings.HasPrefix(p.Key, "repository.") && !strings.Contains(p.Key, ".upstream") && !strings.HasSuffix(p.Key, ".default") {
			field = "key"
		}
		problems = append(problems, pages.FieldProblem{Field: field, Message: p.Err.Error()})
	}
	return problems
}

// maxImage bounds the image that a trial asks for, in bytes.
const maxImage = 512

// imageOf returns the image that a trial asks for, by the name that clients use. The name is empty
// if there is none.
func imageOf(described pages.Registry) (image oci.Image, err error) {
	if described.Image == "" {
		return oci.Image{}, nil
	}
	if len(described.Image) > maxImage {
		return oci.Image{}, errors.New("must be shorter")
	}
	image, err = oci.ParseImage(described.Key + "/" + strings.TrimPrefix(described.Image, described.Key+"/"))
	if err != nil {
		return oci.Image{}, errors.New("must be the name of an image, such as team/app:1.2")
	}
	return image, nil
}

// Writes reports whether blocks can be added.
func (r registrar) Writes() bool { return r.inForce().UI.EditDir != "" }

// Conflicts returns why a block without problems cannot be added.
func (r registrar) Conflicts(ctx context.Context, described pages.Registry) ([]pages.FieldProblem, error) {
	if err := r.Permit(ctx); err != nil {
		return nil, err
	}
	_, problems, err := r.candidate(r.withDefault(draftOf(described)))
	return problems, err
}

// candidate returns the configuration with the block of a draft, validated as weir check validates
// it, or the problems of the draft.
func (r registrar) candidate(draft config.Draft) (*config.Config, []pages.FieldProblem, error) {
	reloads := r.state.reloads.Load()
	if reloads == nil {
		return nil, nil, errStarting()
	}
	if draft.ByHand() {
		return nil, []pages.FieldProblem{{Message: "names files or programs of the mirror's machine. Write it into a configuration file"}}, nil
	}
	if problem := r.takes(draft); problem != "" {
		return nil, []pages.FieldProblem{{Field: "key", Message: problem}}, nil
	}
	cfg, err := reloads.source.LoadWith(draft)
	if err == nil {
		err = cfg.Validate()
	}
	if err == nil {
		return cfg, nil, nil
	}
	found, _ := errors.AsType[config.Problems](err)
	var own config.Problems
	for _, p := range found {
		if filepath.Base(p.File) == draft.FileName() {
			own = append(own, p)
		}
	}
	if len(own) == 0 { // the words of the others may be about anything
		return nil, []pages.FieldProblem{{Message: "The configuration files have other problems, or ui.edit_dir cannot be used. Run weir check and correct them first"}}, nil
	}
	return nil, fieldProblems(draft, own), nil
}

// takes returns why a block would take names from another one; "" if it takes none. The
// right to change the cache must not decide where images of known names come from. A login for the
// registry of a built-in block takes none. Requests with ns go on to the blocks that serve them
// now ([route.Rule.Added]).
func (r registrar) takes(draft config.Draft) string {
	key := draft.Key
	first, _, _ := strings.Cut(key, "/")
	if !oci.IsHost(first) {
		return "must begin with a host name, such as registry.example.com: other names belong to images of the default block. Write the block into a configuration file"
	}
	for _, block := range r.inForce().Namespaces {
		switch {
		case block.Key == key && r.inForce().IsBuiltIn(key) && len(block.Upstreams) == 1 && block.Upstreams[0].URL.String() == draft.URL:
		case block.Key == key:
			return "already exists. Change that block in its file"
		case oci.Below(key, block.Key):
			return "is below the block " + block.Key + ", which serves these names now. Write the block into a configuration file"
		case block.Host != "" && oci.SameHost(plainHost(block.Host), plainHost(first)):
			return "begins with " + first + ", which is already the registry of the block " + block.Key + ". Write the block into a configuration file"
		}
	}
	return ""
}

// plainHost returns a host without what makes no difference to a client that pulls by its name: the port
// of its scheme, and the dot of a complete name (RFC 1034, section 3.1).
func plainHost(host string) string {
	for _, port := range []string{":443", ":80"} {
		host = strings.TrimSuffix(host, port)
	}
	return strings.TrimSuffix(host, ".")
}

// Add writes a block to a file of its own, and puts it in force. If the reload fails, the file goes
// away again, since the mirror could not start with it.
func (r registrar) Add(ctx context.Context, described pages.Registry) error {
	if err := r.Permit(ctx); err != nil {
		return err
	}
	r.adding.Lock()
	defer r.adding.Unlock()
	draft := r.withDefault(draftOf(described))
	cfg, problems, err := r.candidate(draft)
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		return &api.Failure{Status: http.StatusConflict, Message: "The block can no longer be added: it " + problems[0].Message}
	}
	path, err := writeNew(cfg.UI.EditDir, draft.FileName(), draft.File())
	if errors.Is(err, fs.ErrExist) {
		return &api.Failure{Status: http.StatusConflict, Message: "The directory ui.edit_dir already has a file " + draft.FileName() + ". Remove or rename it"}
	}
	if err != nil {
		r.logger.Error("cannot write a block", "directory", cfg.UI.EditDir, "error", err)
		return &api.Failure{Status: http.StatusInternalServerError, Message: "The file of the block cannot be written. The log of the mirror has the reason"}
	}
	sender, _ := ctx.Value(senderKey{}).(string)
	r.logger.Info("a page added a block", "key", draft.Key, "file", path, "sender", sender)
	if err = r.reload(ctx); err == nil {
		return nil
	}
	if failed := os.Remove(path); failed != nil {
		r.logger.Error("cannot remove the file of a block that is not in force", "file", path, "error", failed)
	}
	_ = r.reload(ctx) // the files are those in force again
	return &api.Failure{Status: http.StatusConflict, Message: "The configuration with the block cannot be used, so the block was removed again: " + err.Error()}
}

// reload puts the changed files in force, whether or not the client waits. It returns why they cannot
// be used. Files that do not keep still are looked at later.
func (r registrar) reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reloadLimit)
	defer cancel()
	err := r.state.reloads.Load().now(ctx)
	if errors.Is(err, errChanging) {
		return nil
	}
	return err
}

// Added returns the blocks that pages have written.
func (r registrar) Added(ctx context.Context) ([]pages.AddedBlock, error) {
	if err := r.Permit(ctx); err != nil || !r.Writes() {
		return nil, err
	}
	files, err := config.AddedFiles(r.inForce().UI.EditDir)
	if err != nil {
		r.logger.Warn("cannot read the directory of ui.edit_dir", "error", err)
		return nil, nil // the form is of use without the list
	}
	blocks := make([]pages.AddedBlock, len(files))
	for i, one := range files {
		blocks[i] = pages.AddedBlock{Key: one.Key, URL: one.URL, File: one.File}
	}
	return blocks, nil
}

// Remove removes the file of a block that a page has written, and puts the rest in force. A file that
// was changed by hand stays, and so does one without which the configuration cannot be used.
func (r registrar) Remove(ctx context.Context, key string) error {
	if err := r.Permit(ctx); err != nil {
		return err
	}
	r.adding.Lock()
	defer r.adding.Unlock()
	reloads := r.state.reloads.Load()
	if reloads == nil {
		return errStarting()
	}
	dir := r.inForce().UI.EditDir
	files, err := config.AddedFiles(dir)
	at := slices.IndexFunc(files, func(one config.Added) bool { return one.Intact && one.Key == key })
	if err != nil || at < 0 {
		return &api.Failure{Status: http.StatusNotFound, Message: "No page has written a block of this name, or its file was changed by hand. Remove the block from its file"}
	}
	// The reload may notice the change before this page asks for it.
	reloads.removing.Store(&key)
	defer reloads.removing.Store(nil)
	path := filepath.Join(dir, files[at].File)
	if err := os.Remove(path); err != nil {
		r.logger.Error("cannot remove the file of a block", "file", path, "error", err)
		return &api.Failure{Status: http.StatusInternalServerError, Message: "The file of the block cannot be removed. The log of the mirror has the reason"}
	}
	flushDirectory(dir)
	sender, _ := ctx.Value(senderKey{}).(string)
	r.logger.Info("a page removed a block", "key", key, "file", path, "sender", sender)
	if err = r.reload(ctx); err == nil {
		return nil
	}
	if _, failed := writeNew(dir, files[at].File, files[at].Text); failed != nil {
		r.logger.Error("cannot write the file of a block again, without which the configuration cannot be used", "file", path, "error", failed)
	}
	_ = r.reload(ctx) // the files are those in force again
	return &api.Failure{Status: http.StatusConflict, Message: "The configuration without the block cannot be used, so the block stays: " + err.Error()}
}

// errStarting is the answer before the first configuration is watched.
func errStarting() error {
	return &api.Failure{Status: http.StatusServiceUnavailable, Message: "The mirror is starting. Send the form again in a few seconds"}
}

// reloadLimit is how long a page waits for a reload, which takes some milliseconds.
const reloadLimit = 10 * time.Second

// writeNew writes a file that does not exist, for this user alone. The file appears whole and
// flushed. The error is fs.ErrExist if there is a file of that name.
func writeNew(dir, name, text string) (path string, err error) {
	staged, err := os.CreateTemp(dir, ".weir-*.tmp") // mode 0600
	if err != nil {
		return "", err
	}
	defer os.Remove(staged.Name()) //nolint:errcheck // the name begins with a dot, so that no reload reads it
	_, err = staged.WriteString(text)
	if err == nil {
		err = staged.Sync()
	}
	if closed := staged.Close(); err == nil {
		err = closed
	}
	path = filepath.Join(dir, name)
	if err == nil {
		err = os.Link(staged.Name(), path) // unlike a rename, it replaces nothing
	}
	if err != nil {
		return "", err
	}
	flushDirectory(dir)
	return path, nil
}

// flushDirectory flushes the names of a directory as far as it can be read and its filesystem can.
func flushDirectory(dir string) {
	if opened, err := os.Open(dir); err == nil {
		defer opened.Close()
		_ = opened.Sync() // the change is in force without it
	}
}
