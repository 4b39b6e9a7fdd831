package tests

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/weirhq/weir/tests/harness"
)

const chart = "../contrib/kubernetes/weir"

// object has the fields of the chart's objects that the tests look at.
type object struct {
	Kind string            `yaml:"kind"`
	Data map[string]string `yaml:"data"` // of a ConfigMap
	Spec struct {
		VolumeClaimTemplates []any `yaml:"volumeClaimTemplates"`
		Template             struct {
			Spec podSpec `yaml:"spec"`
		} `yaml:"template"`
	} `yaml:"spec"`
}

type podSpec struct {
	AutomountServiceAccountToken  *bool `yaml:"automountServiceAccountToken"`
	TerminationGracePeriodSeconds int   `yaml:"terminationGracePeriodSeconds"`
	SecurityContext               struct {
		RunAsNonRoot   bool `yaml:"runAsNonRoot"`
		FSGroup        int  `yaml:"fsGroup"`
		SeccompProfile struct {
			Type string `yaml:"type"`
		} `yaml:"seccompProfile"`
	} `yaml:"securityContext"`
	Containers []struct {
		SecurityContext struct {
			AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
			ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
			Capabilities             struct {
				Drop []string `yaml:"drop"`
			} `yaml:"capabilities"`
		} `yaml:"securityContext"`
		LivenessProbe  probe `yaml:"livenessProbe"`
		ReadinessProbe probe `yaml:"readinessProbe"`
		VolumeMounts   []struct {
			MountPath string `yaml:"mountPath"`
			SubPath   string `yaml:"subPath"`
		} `yaml:"volumeMounts"`
	} `yaml:"containers"`
	Volumes []struct {
		ConfigMap struct {
			Name string `yaml:"name"`
		} `yaml:"configMap"`
		Secret struct {
			SecretName string `yaml:"secretName"`
		} `yaml:"secret"`
		EmptyDir map[string]any `yaml:"emptyDir"`
	} `yaml:"volumes"`
}

type probe struct {
	HTTPGet struct {
		Path string `yaml:"path"`
	} `yaml:"httpGet"`
}

// helm is the program that renders the chart.
type helm struct{ path string }

func (h helm) command(t *testing.T, args ...string) *exec.Cmd {
	return exec.CommandContext(t.Context(), h.path, args...)
}

// render returns the chart's objects by their kinds.
func (h helm) render(t *testing.T, args ...string) map[string]object {
	t.Helper()
	out := harness.Run(t, h.command(t, append([]string{"template", "mirror", chart, "--kube-version", "1.31.0"}, args...)...))
	objects := make(map[string]object)
	for decoder := yaml.NewDecoder(bytes.NewReader([]byte(out))); ; {
		var o object
		err := decoder.Decode(&o)
		if errors.Is(err, io.EOF) {
			return objects
		}
		harness.Must(t, err)
		objects[o.Kind] = o
	}
}

func TestChart(t *testing.T) {
	t.Parallel()
	h := helm{harness.Tool(t, "helm", "helm")}
	everything := []string{"--set", "replicas=2,secretName=upstreams,serviceMonitor.enabled=true,ingress.enabled=true,ingress.host=mirror.example.com,ingress.tlsSecretName=tls,service.type=NodePort,service.nodePort=30800"}
	for _, values := range [][]string{nil, everything, {"--set", "persistence.enabled=false,existingConfigMap=mine,podDisruptionBudget.enabled=false"}} {
		harness.Run(t, h.command(t, append([]string{"lint", "--strict", chart}, values...)...))
	}

	t.Run("configuration", func(t *testing.T) {
		dir := t.TempDir()
		harness.WriteFile(t, filepath.Join(dir, "config.toml"), h.render(t)["ConfigMap"].Data["config.toml"])
		got := command(t, dir, "check")
		// Its data directory is the container's, which need not be there.
		if got.code != 0 || !strings.Contains(got.stdout, `root_dir = "/var/lib/weir"`) || !strings.Contains(got.stdout, `bind_address = "0.0.0.0"`) {
			t.Errorf("%+v", got)
		}
	})
	t.Run("pod", func(t *testing.T) {
		pod := h.render(t)["StatefulSet"].Spec.Template.Spec
		c := pod.Containers[0]
		if s := pod.SecurityContext; !s.RunAsNonRoot || s.FSGroup == 0 || s.SeccompProfile.Type != "RuntimeDefault" ||
			pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
			t.Errorf("the pod has too many rights: %+v", pod)
		}
		if s := c.SecurityContext; s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !s.ReadOnlyRootFilesystem ||
			len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" {
			t.Errorf("the container has too many rights: %+v", c)
		}
		if drain := drainSeconds(t); pod.TerminationGracePeriodSeconds <= drain {
			t.Errorf("killed after %d s, want more than global.shutdown_drain_secs, %d", pod.TerminationGracePeriodSeconds, drain)
		}
		if c.LivenessProbe.HTTPGet.Path != "/healthz" || c.ReadinessProbe.HTTPGet.Path != "/readyz" {
			t.Errorf("its probes are %+v and %+v", c.LivenessProbe, c.ReadinessProbe)
		}
		for _, mount := range c.VolumeMounts {
			if mount.SubPath != "" {
				t.Errorf("%s is mounted as a single file, which would never change", mount.MountPath)
			}
		}
	})
	t.Run("kinds", func(t *testing.T) {
		got := h.render(t, everything...)
		for _, kind := range []string{"ConfigMap", "Ingress", "PodDisruptionBudget", "Service", "ServiceMonitor", "StatefulSet"} {
			if got[kind].Kind == "" {
				t.Errorf("everything is asked for, and there is no %s", kind)
			}
		}
		if v := got["StatefulSet"].Spec.Template.Spec.Volumes; len(v) != 2 || v[1].Secret.SecretName != "upstreams" {
			t.Errorf("volumes %+v", v)
		}
		got = h.render(t)
		if len(got) != 3 || len(got["StatefulSet"].Spec.VolumeClaimTemplates) != 1 {
			t.Errorf("by default there are %+v", got)
		}
		got = h.render(t, "--set", "persistence.enabled=false,existingConfigMap=mine")
		if v := got["StatefulSet"].Spec.Template.Spec.Volumes; len(got) != 2 || len(v) != 2 || v[0].ConfigMap.Name != "mine" || v[1].EmptyDir == nil {
			t.Errorf("with a ConfigMap of one's own and no claim: %+v", got)
		}
	})
	t.Run("nonsense", func(t *testing.T) {
		for _, values := range []string{"replica=2", "replicas=two", "service.type=Loadbalancer", "persistence.size=100GB", "ingress.enabled=true", "persistence.accessModes={ReadWriteMany}"} {
			if out, err := h.command(t, "template", chart, "--kube-version", "1.31.0", "--set", values).CombinedOutput(); err == nil || !strings.Contains(string(out), "schema") {
				t.Errorf("%s is accepted: %v\n%s", values, err, out)
			}
		}
	})
}
