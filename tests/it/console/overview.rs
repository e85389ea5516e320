//! The first page, from the way in to figures that move.

use super::{
    World,
    browser::{Browser, skipped},
};
use crate::harness::chat;

#[tokio::test]
async fn somebody_signs_in_and_sees_the_figures_move() {
    if skipped(&["BROWSER_TESTS"]) {
        return;
    }
    let world = World::new(&["sk-one-0123456789", "sk-two-0123456789"]).await;
    for _ in 0..3 {
        assert_eq!(world.keytide.post("/v1/chat/completions", &chat(false)).await.status(), 200);
    }
    world.keytide.settled("ollama", 3).await;
    let browser = Browser::start(&world, (1280, 900)).await;
    browser.is_accessible().await;
    browser.sign_in(&world).await;
    browser.sees(".tiles div:nth-child(1) dd", "3").await;
    browser.sees(".tiles div:nth-child(3)", "of 2").await;
    browser.sees(".attention", "All is well").await;
    browser.sees(".card th.name", "demo-small").await;
    assert_eq!(
        browser.run("return document.querySelectorAll('figure .narrow svg [fill=\"#000001\"]').length").await,
        2
    );
    browser.fits().await;
    browser.is_accessible().await;
    // While somebody looks, requests come in: the tile and the charts move.
    let bar =
        "document.querySelector('figure .narrow svg [fill=\"#000001\"]').getBoundingClientRect().height";
    let height = browser.run(&format!("return {bar}")).await.as_f64().unwrap();
    let in_table =
        |count| format!("document.querySelector('figure tbody td.number').textContent === '{count}'");
    browser.comes_true(&in_table(3)).await;
    for _ in 0..4 {
        assert_eq!(world.keytide.post("/v1/chat/completions", &chat(false)).await.status(), 200);
    }
    browser.sees(".tiles div:nth-child(1) dd", "7").await;
    browser.comes_true(&in_table(7)).await;
    let taller = browser.run(&format!("return {bar}")).await.as_f64().unwrap();
    assert!(taller > height * 1.1, "{height} has become {taller}");
    browser.press("button[value=zh]").await;
    browser.sees("h1", "概览").await;
    browser.press("button[value=dark]").await;
    browser.is_there("html[data-theme=dark]").await;
    browser.is_accessible().await;
    browser.press(".quiet button").await;
    browser.sees("h1", "登录").await;
    browser.ends_well().await;
}

#[tokio::test]
async fn a_phone_shows_the_same() {
    if skipped(&["BROWSER_TESTS"]) {
        return;
    }
    let world = World::new(&["sk-one-0123456789"]).await;
    let browser = Browser::start(&world, (390, 844)).await;
    browser.sign_in(&world).await;
    browser.sees(".attention", "All is well").await;
    browser.fits().await;
    browser.is_accessible().await;
    browser.press(".menu summary").await;
    browser.press(".side nav a[href='/keys']").await;
    browser.sees("h1", "Keys").await;
    browser.fits().await;
    browser.is_accessible().await;
    browser.ends_well().await;
}
