//! What will be sent: the public and the private part of each service, with its image pinned by digest.

use std::path::{Path, PathBuf};

use anyhow::Result;
use atoll_api::node::{FetchImage, ImportImage, ImportedImage};
use atoll_base::{
    contracts::IDeployments,
    limits::SEALED_SPEC_BYTES_MAX,
    schema::Isolation,
    seal,
    spec::{ImageRef, ImageSource, PrivateSpec},
};
use serde::Serialize;

use super::follow;
use crate::{
    cli::{
        apps,
        failure::{OrFail as _, fail},
        output,
        region::Region,
    },
    compose::{self, Image, LocalForm, Refusal, Refused},
};

/// An AEAD tag is what encryption adds.
const TAG_BYTES: usize = 16;

/// A deployment, complete but for placement and keys.
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) services: Vec<Planned>,
}

/// A service, complete but for placement and keys.
pub(super) struct Planned {
    /// With an empty `sealedSpec`.
    pub(super) public: IDeployments::Service,
    /// The private part as it will be sealed.
    pub(super) plaintext: Vec<u8>,
}

impl Plan {
    /// Brings the images into the local node's store and pins every image by its digest.
    pub(super) async fn make(
        region: &Region,
        name: &str,
        app: &compose::App,
        images: &[Option<PathBuf>],
    ) -> Result<Self> {
        let mut services = Vec::new();
        for (service, path) in app.services.iter().zip(images) {
            let image = pin(region, &service.image, path.as_deref()).await?;
            services.push(planned(service, image)?);
        }
        Ok(Self { name: name.to_owned(), services })
    }

    /// The contract's services, without their sealed parts.
    pub(super) fn public(&self) -> Vec<IDeployments::Service> {
        self.services.iter().map(|service| service.public.clone()).collect()
    }

    /// Whether a deployment consists of exactly these services.
    pub(super) fn is_what_runs(&self, app: &apps::App) -> bool {
        self.services.iter().map(|service| apps::Service::of(&service.public)).eq(app.services.iter().cloned())
    }
}

/// Looks whether local images are there. The answer has the absolute path of each local image.
pub(super) fn check_images(file: &Path, app: &compose::App) -> Result<Vec<Option<PathBuf>>> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let (mut paths, mut refusals) = (Vec::new(), Vec::new());
    for service in &app.services {
        let Image::Local { form, path, .. } = &service.image else {
            paths.push(None);
            continue;
        };
        let found =
            std::path::absolute(folder.join(path)).map_err(|e| e.to_string()).and_then(|path| look(*form, path));
        match found {
            Ok(path) => paths.push(Some(path)),
            Err(why) => refusals.push(Refusal {
                place: service.image_place,
                key: format!("services.{}.image", service.name),
                why,
                cure: "build the image first, or correct the path (it is relative to this file)".to_owned(),
            }),
        }
    }
    if refusals.is_empty() {
        return Ok(paths);
    }
    Err(Refused::new(&file.display().to_string(), refusals))
        .or_fail(|| "an image is not there", || "then deploy again; nothing was deployed")
}

fn look(form: LocalForm, path: PathBuf) -> Result<PathBuf, String> {
    let shown = path.display();
    match (form, std::fs::metadata(&path)) {
        (_, Err(error)) => Err(format!("cannot find {shown}: {error}")),
        (LocalForm::OciLayout, Ok(meta)) if !meta.is_dir() => Err(format!("{shown} is no folder")),
        (LocalForm::OciLayout, Ok(_)) if !path.join("index.json").is_file() => {
            Err(format!("{shown} is no OCI layout: it has no index.json"))
        }
        (LocalForm::DockerArchive, Ok(meta)) if !meta.is_file() => Err(format!("{shown} is no file")),
        (LocalForm::OciLayout | LocalForm::DockerArchive, Ok(_)) => Ok(path),
    }
}

async fn pin(region: &Region, image: &Image, path: Option<&Path>) -> Result<ImageRef> {
    match (image, path) {
        // The local node has it from now on: the app can move also when the registry is out of reach.
        (Image::Registry { repository, digest }, _) => {
            let name = format!("{repository}@{digest}");
            let request = FetchImage { repository: repository.clone(), digest: digest.clone() };
            let imported = bring(region, &name, "/v1/images/fetch", &request).await?;
            let sources = vec![ImageSource::Node(imported.node), ImageSource::Registry(repository.clone())];
            Ok(ImageRef { digest: imported.digest, name, sources })
        }
        (Image::Local { tag, .. }, Some(path)) => {
            let shown = path.display().to_string();
            let request = ImportImage { path: shown.clone(), tag: tag.clone(), digest: None };
            let imported = bring(region, &shown, "/v1/images", &request).await?;
            Ok(ImageRef {
                digest: imported.digest,
                name: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
                sources: vec![ImageSource::Node(imported.node)],
            })
        }
        (Image::Local { path, .. }, None) => {
            Err(fail(format!("the image {} was not looked for", path.display()), "report this as a bug"))
        }
    }
}

/// Has the local node bring an image into its store.
async fn bring(region: &Region, name: &str, uri: &str, request: &impl Serialize) -> Result<ImportedImage> {
    let name = output::clean(name);
    let bar = follow::spinner(&format!("reading the image {name}"));
    let imported = region.node().post(uri, request).await;
    bar.finish_and_clear();
    imported.or_fail(
        || format!("cannot take the image {name}"),
        || "build the image again, or name another one in the deployment file; nothing was deployed",
    )
}

fn planned(service: &compose::Service, image: ImageRef) -> Result<Planned> {
    let spec = PrivateSpec {
        image,
        entrypoint: service.entrypoint.clone(),
        command: service.command.clone(),
        env: service.environment.clone(),
        working_dir: service.working_dir.clone(),
        user: service.user.clone(),
        pids_max: service.pids_max,
        health: service.health.clone(),
    };
    let plaintext = serde_json::to_vec(&spec)?;
    if plaintext.len() + TAG_BYTES > SEALED_SPEC_BYTES_MAX {
        return Err(fail(
            format!(
                "image, command and environment of service '{}' take {} bytes, at most {} fit the ledger",
                service.name,
                plaintext.len(),
                SEALED_SPEC_BYTES_MAX - TAG_BYTES
            ),
            "put large values into a file of the image",
        ));
    }
    let public = IDeployments::Service {
        name: service.name.clone(),
        replicas: service.replicas,
        isolation: match service.isolation {
            Isolation::Container => IDeployments::Isolation::Container,
            Isolation::MicroVm => IDeployments::Isolation::MicroVm,
        },
        cpuMilli: service.needs.cpu_milli,
        memoryBytes: service.needs.memory_bytes,
        diskBytes: service.needs.disk_bytes,
        httpPort: service.http.unwrap_or_default(),
        openPorts: service.ports.clone(),
        constraints: service.constraints.clone(),
        specHash: seal::content_hash(&plaintext).into(),
        sealedSpec: alloy_primitives::Bytes::new(),
    };
    Ok(Planned { public, plaintext })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(image: &str) -> compose::App {
        let text = format!("services:\n  web:\n    image: {image}\n");
        compose::parse("f", text.as_bytes()).expect("valid")
    }

    #[test]
    fn missing_images_are_named_by_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("compose.yaml");
        let check = |image: &str, expect: &str| {
            let error = check_images(&file, &app(image)).expect_err("not there");
            let text = crate::cli::failure::render(&error);
            let folder = folder.path().display().to_string();
            let text = text.replace(&folder, "DIR");
            assert_eq!(
                text,
                format!(
                    "error: an image is not there\n  because: DIR/compose.yaml:3:12: services.web.image: {expect}; \
                     build the image first, or correct the path (it is relative to this file)\n  \
                     what to do: then deploy again; nothing was deployed\n"
                )
            );
        };
        check("oci-layout:img", "cannot find DIR/img: No such file or directory (os error 2)");
        check("docker-archive:img.tar", "cannot find DIR/img.tar: No such file or directory (os error 2)");
        std::fs::create_dir(folder.path().join("img")).expect("a folder");
        check("oci-layout:img", "DIR/img is no OCI layout: it has no index.json");
        check("docker-archive:img", "DIR/img is no file");
        std::fs::write(folder.path().join("img/index.json"), "{}").expect("a file");
        let found = check_images(&file, &app("oci-layout:img")).expect("there");
        assert_eq!(found, [Some(folder.path().join("img"))]);
    }

    #[test]
    fn the_private_part_is_hashed_and_bounded() {
        let image = || ImageRef { digest: "sha256:00".into(), name: "n".into(), sources: vec![] };
        let mut service = app("oci-layout:img").services.remove(0);
        let planned_once = planned(&service, image()).expect("fits");
        assert_eq!(planned_once.public.specHash.0, seal::content_hash(&planned_once.plaintext));
        let spec: PrivateSpec = serde_json::from_slice(&planned_once.plaintext).expect("readable");
        assert_eq!(spec.pids_max, service.pids_max);
        service.environment.push(("A".into(), "x".repeat(SEALED_SPEC_BYTES_MAX)));
        let error = planned(&service, image()).err().expect("too large").to_string();
        assert!(error.starts_with("image, command and environment of service 'web' take 16"), "{error}");
    }
}
